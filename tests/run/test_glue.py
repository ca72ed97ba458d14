"""GLUE's readers on small files of the published form, made here: header lines as published, quirks included."""

from pathlib import Path

import pytest

from sora_ref.errors import SoRAError
from sora_ref.run.data import Example, load_task, read_glue
from sora_ref.run.data.glue import GLUE

MNLI_HEAD = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2"
).replace(" ", "\t")
MNLI_ROW = "{}\t31193\t31193n\tgovernment\t( a )\t( b )\t(ROOT a)\t(ROOT b)\t{}\t{}"

# per task: files by name, and the label of each train row
PUBLISHED: dict[str, tuple[dict[str, list[str]], list[int | float]]] = {
    "cola": (
        {
            "train.tsv": ["gj04\t1\t\t\"Our friends won't buy this.", "gj04\t0\t*\tThem like him."],
            "dev.tsv": ["bc01\t0\t*\tThe more books I ask to whom."],
            "test.tsv": ["index\tsentence", "0\tBill whistled past the house."],
        },
        [1, 0],
    ),
    "sst2": (
        {
            "train.tsv": ["sentence\tlabel", 'hide new "secretions \t0', "contains no wit \t1"],
            "dev.tsv": ["sentence\tlabel", "it 's a charming journey . \t1"],
            "test.tsv": ["index\tsentence", "0\tuneasy mishmash of styles ."],
        },
        [0, 1],
    ),
    "mrpc": (
        {
            "train.tsv": [
                "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
                '1\t702876\t702977\t"Amrozi accused him .\tReferring to him , Amrozi said .',
                "0\t2108705\t2108831\tYucaipa owned it .\tYucaipa bought it .",
            ],
            "dev.tsv": [
                "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
                "1\t1355540\t1355592\tHe said .\tHe says .",
            ],
            "test.tsv": [
                "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String",
                "0\t1089874\t1089925\tPCCW 's .\tCurrent .",
            ],
        },
        [1, 0],
    ),
    "qqp": (
        {
            "train.tsv": [
                "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
                '133273\t213221\t213222\t"How is life?\tWhere is life?\t0',
                "402555\t536040\t536041\tHow do I?\tHow did you?\t1",
            ],
            "dev.tsv": ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "201359\t303345\t303346\tWhy?\tHow?\t0"],
            "test.tsv": ["id\tquestion1\tquestion2", "0\tWould it?\tWas it?"],
        },
        [0, 1],
    ),
    "stsb": (
        {
            "train.tsv": [
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
                '0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\t"A plane.\tAn air plane.\t5.000',
                "1\tmain-captions\tMSRvid\t2012test\t0004\tnone\tnone\tA man.\tA flute.\t3.800",
            ],
            "dev.tsv": [
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
                "0\tmain-captions\tMSRvid\t2012test\t0000\tnone\tnone\tA hat.\tA hard hat.\t4.750",
            ],
            "test.tsv": [
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
                "0\tmain-captions\tMSRvid\t2012test\t0024\tnone\tnone\tA girl.\tA brush.",
            ],
        },
        [5.0, 3.8],
    ),
    "mnli": (
        {
            "train.tsv": [
                f"{MNLI_HEAD}\tlabel1\tgold_label",
                MNLI_ROW.format(0, '"Cream skimming.', "Product.") + "\tneutral\tneutral",
                MNLI_ROW.format(1, "You know.", "You lose.") + "\tentailment\tentailment",
                MNLI_ROW.format(2, "One of us.", "None of us.") + "\tcontradiction\tcontradiction",
            ],
            **{
                f"dev_{kind}.tsv": [
                    f"{MNLI_HEAD}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
                    MNLI_ROW.format(0, f"{kind} rights.", "All like it.") + "\tneutral" * 6,
                ]
                for kind in ("matched", "mismatched")
            },
            **{
                f"test_{kind}.tsv": [MNLI_HEAD, MNLI_ROW.format(0, f"{kind} hut.", "A hut.")]
                for kind in ("matched", "mismatched")
            },
        },
        [1, 0, 2],
    ),
    "qnli": (
        {
            "train.tsv": [
                "index\tquestion\tsentence\tlabel",
                '0\t"When did it begin?\tIt began in 1517.\tentailment',
                "1\tWho won?\tNobody knew.\tnot_entailment",
            ],
            "dev.tsv": ["index\tquestion\tsentence\tlabel", "0\tWhat came?\tAs of that day.\tentailment"],
            "test.tsv": ["index\tquestion\tsentence", "0\tWhat organ?\tThe heart."],
        },
        [0, 1],
    ),
    "rte": (
        {
            "train.tsv": [
                "index\tsentence1\tsentence2\tlabel",
                '0\t"No weapons found.\tWeapons found.\tnot_entailment',
                "1\tA place of sorrow.\tA place.\tentailment",
            ],
            "dev.tsv": [
                "index\tsentence1\tsentence2\tlabel",
                "0\tDana Reeve died.\tHe had an accident.\tnot_entailment",
            ],
            "test.tsv": ["index\tsentence1\tsentence2", "0\tMangla was summoned.\tA Hindu was."],
        },
        [1, 0],
    ),
}


def publish(folder: Path, task: str, **changed: list[str]) -> Path:
    """Write a task's files into its published folder below ``folder``; a keyword (train, dev, …) replaces one."""
    home = folder / GLUE[task].folder
    home.mkdir()
    files = PUBLISHED[task][0] | {f"{stem}.tsv": lines for stem, lines in changed.items()}
    for name, lines in files.items():
        (home / name).write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    return home


def test_the_eight_tasks_of_the_paper_are_known() -> None:
    assert set(GLUE) == set(PUBLISHED) == {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"}


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_folder_is_read_from_itself_and_from_above(tmp_path: Path, task: str) -> None:
    home = publish(tmp_path, task)
    assert read_glue(home, task) == read_glue(tmp_path, task) == load_task(f"glue:{task}", path=tmp_path)


@pytest.mark.parametrize("task", PUBLISHED)
def test_train_labels_and_quotes_are_as_in_the_file(tmp_path: Path, task: str) -> None:
    read = read_glue(publish(tmp_path, task), task)
    train = read.splits["train"]
    assert [example.label for example in train] == PUBLISHED[task][1]
    assert [example.id for example in train] == [f"train:{row}" for row in range(len(train))]
    assert '"' in train[0].text
    assert all((example.pair is None) == (task in {"cola", "sst2"}) for example in train)
    assert read.kind == ("regression" if task == "stsb" else "classification")
    assert not read.labels or max(PUBLISHED[task][1]) == len(read.labels) - 1


@pytest.mark.parametrize("task", PUBLISHED)
def test_test_split_is_unlabelled_and_optional(tmp_path: Path, task: str) -> None:
    home = publish(tmp_path, task)
    for split, examples in read_glue(home, task).splits.items():
        assert all((example.label is None) == split.startswith("test") for example in examples)
    for path in home.glob("test*.tsv"):
        path.unlink()
    assert not [split for split in read_glue(home, task).splits if split.startswith("test")]


@pytest.mark.parametrize(
    ("task", "text", "pair"),
    [
        ("cola", "The more books I ask to whom.", None),
        ("sst2", "it 's a charming journey . ", None),
        ("mrpc", "He said .", "He says ."),
        ("qqp", "Why?", "How?"),
        ("stsb", "A hat.", "A hard hat."),
        ("qnli", "What came?", "As of that day."),
        ("rte", "Dana Reeve died.", "He had an accident."),
    ],
)
def test_validation_is_the_dev_file(tmp_path: Path, task: str, text: str, pair: str | None) -> None:
    (example,) = read_glue(publish(tmp_path, task), task).splits["validation"]
    assert (example.text, example.pair) == (text, pair)


def test_mnli_has_matched_and_mismatched_splits(tmp_path: Path) -> None:
    splits = read_glue(publish(tmp_path, "mnli"), "mnli").splits
    texts = {split: examples[0].text for split, examples in splits.items() if split != "train"}
    assert texts == {
        "validation_matched": "matched rights.",
        "validation_mismatched": "mismatched rights.",
        "test_matched": "matched hut.",
        "test_mismatched": "mismatched hut.",
    }


def test_metrics_are_glues_and_the_first_selects() -> None:
    assert {task: spec.metrics for task, spec in GLUE.items()} == {
        "cola": ("matthews",),
        "sst2": ("accuracy",),
        "mrpc": ("accuracy", "f1"),
        "qqp": ("accuracy", "f1"),
        "stsb": ("pearson", "spearman"),
        "mnli": ("accuracy",),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
    }


def test_row_that_lacks_a_field_is_passed_over_and_counted(tmp_path: Path) -> None:
    head, *rows = PUBLISHED["qqp"][0]["train.tsv"]
    home = publish(tmp_path, "qqp", train=[head, rows[0], "7\t8\t9\tHow do I", rows[1] + "\tmore"])
    said: list[str] = []
    train = read_glue(home, "qqp", say=said.append).splits["train"]
    assert [example.id for example in train] == ["train:0", "train:2"]
    assert said == [f"{home / 'train.tsv'}: rows passed over because they lack a field: 1"]


def test_mnli_row_without_agreement_is_passed_over_and_counted(tmp_path: Path) -> None:
    head, *rows = PUBLISHED["mnli"][0]["train.tsv"]
    home = publish(tmp_path, "mnli", train=[head, MNLI_ROW.format(9, "a", "b") + "\tneutral\t-", *rows])
    said: list[str] = []
    train = read_glue(home, "mnli", say=said.append).splits["train"]
    assert [example.id for example in train] == ["train:1", "train:2", "train:3"]
    assert said == [f"{home / 'train.tsv'}: rows passed over because their annotators did not agree: 1"]


def test_blank_sentence_is_kept(tmp_path: Path) -> None:
    head, *rows = PUBLISHED["qqp"][0]["train.tsv"]
    home = publish(tmp_path, "qqp", train=[head, "1\t2\t3\t\tWhy?\t0", *rows])
    assert read_glue(home, "qqp").splits["train"][0] == Example("train:0", "", "Why?", 0)


def test_mrpc_corpus_parts_by_the_id_pairs_of_glue(tmp_path: Path) -> None:
    home = tmp_path / "MRPC"
    home.mkdir()
    head, *rows = PUBLISHED["mrpc"][0]["train.tsv"]
    (home / "msr_paraphrase_train.txt").write_text("\n".join([head, *rows]), encoding="utf-8")
    with pytest.raises(SoRAError, match=r"dev_ids.tsv is missing: expected GLUE's id pairs"):
        read_glue(home, "mrpc")
    (home / "dev_ids.tsv").write_text("2108705\t2108831\n", encoding="utf-8")
    (home / "msr_paraphrase_test.txt").write_text(f"{head}\n1\t5\t6\tOne .\tTwo .\n", encoding="utf-8")
    splits = read_glue(tmp_path, "mrpc").splits
    assert [example.text for example in splits["train"]] == ['"Amrozi accused him .']
    assert splits["validation"] == (Example("validation:1", "Yucaipa owned it .", "Yucaipa bought it .", 0),)
    assert splits["test"] == (Example("test:0", "One .", "Two .", None),)


def test_label_outside_the_tasks_is_refused_by_line(tmp_path: Path) -> None:
    home = publish(tmp_path, "rte", train=["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tperhaps"])
    with pytest.raises(SoRAError, match=r"train.tsv, line 2: the label 'perhaps' .* 'entailment', 'not_entailment'"):
        read_glue(home, "rte")


def test_score_that_is_no_number_is_refused_by_line(tmp_path: Path) -> None:
    head = PUBLISHED["stsb"][0]["train.tsv"][0]
    home = publish(tmp_path, "stsb", dev=[head, "0\tg\tf\ty\to\ts\ts\ta\tb\tnan"])
    with pytest.raises(SoRAError, match=r"dev.tsv, line 2: the label 'nan' is not a finite number"):
        read_glue(home, "stsb")


def test_unknown_column_missing_files_empty_files_and_unknown_tasks_are_refused(tmp_path: Path) -> None:
    home = publish(tmp_path, "sst2", train=["text\tlabel", "fine\t1"])
    with pytest.raises(SoRAError, match=r"train.tsv, line 1: no column 'sentence'; found 'text', 'label'"):
        read_glue(home, "sst2")
    (home / "train.tsv").write_text("sentence\tlabel\n", encoding="utf-8")
    with pytest.raises(SoRAError, match="glue:sst2 has no examples in its split train"):
        read_glue(home, "sst2")
    (home / "train.tsv").write_text("sentence\tlabel\nfine\t1\n", encoding="utf-8")
    (home / "dev.tsv").unlink()
    with pytest.raises(SoRAError, match=r"dev.tsv: no such file"):
        read_glue(home, "sst2")
    with pytest.raises(SoRAError, match=r"no train.tsv of RTE in .*: expected GLUE's folder layout"):
        read_glue(tmp_path, "rte")
    with pytest.raises(SoRAError, match="unknown GLUE task 'wnli': expected one of cola"):
        read_glue(home, "wnli")
