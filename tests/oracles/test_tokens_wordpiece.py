"""Token ids are those of transformers' AutoTokenizer for the same folder, or the folder is refused by name.

The folders are the fetched models' and a made one, and each of them with one thing changed: every key of the
files beside tokenizer.json that is known to matter, and the parts of tokenizer.json itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import CONFIG, write_model
from tokenizer_folders import (
    Change,
    Document,
    add,
    assert_same,
    both,
    changed,
    config,
    forget,
    list_added,
    normalizer,
    obey,
    put,
    rename,
    token,
    written,
)

from sora_ref.errors import SoRAError
from sora_ref.run.tokens import load_tokenizer
from sora_ref.storage.place import cache_dir

pytest.importorskip("transformers")

TEXTS = [
    "a good film",
    "The CAST was very Bright; and so is this SONG!",
    "naïve café, Ångström — Éclair",
    "电影 is good 好",
    "A [MASK] story [SEP] and a [CLS] plot [PAD] [UNK]",
    "unbelievably supercalifragilisticexpialidocious " * 6,
    "x" * 130,
    "",
    "   \t\n",
    "tab\tand\x00control\x07 \u200b\ufeff",
    "<s> new </s> [NEW] qqnew token, QQNEW, xqqnew",
]
PAIRS = [
    (TEXTS[1], TEXTS[5]),
    (TEXTS[5], TEXTS[1]),
    (TEXTS[0], TEXTS[2]),
    ("", TEXTS[3]),
    (TEXTS[4], TEXTS[4]),
    ("a", ""),
]
LENGTHS = (5, 6, 9, 16)
SAME = (TEXTS, PAIRS, LENGTHS, 2)


def bert_processing(documents: dict[str, Document]) -> None:
    vocab = documents["tokenizer"]["model"]["vocab"]
    documents["tokenizer"]["post_processor"] = {
        "type": "BertProcessing",
        "sep": ["[SEP]", vocab["[SEP]"]],
        "cls": ["[CLS]", vocab["[CLS]"]],
    }


def without_type(documents: dict[str, Document]) -> None:
    """As the files of 2020 are."""
    documents["tokenizer"]["model"].pop("type")


ALL = ["input_ids", "token_type_ids", "attention_mask"]
FOLLOWED: dict[str, Change] = {
    "as it is": lambda documents: None,
    "only tokenizer.json": forget("tokenizer_config", "special_tokens_map"),
    "no special_tokens_map": forget("special_tokens_map"),
    "truncation stored": written(
        truncation={"direction": "Right", "max_length": 7, "strategy": "OnlyFirst", "stride": 2}
    ),
    "truncation stored on the left": written(
        truncation={"direction": "Left", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
    ),
    "truncation_side left": config(truncation_side="left"),
    "truncation_side right over a stored left": both(
        config(truncation_side="right"),
        written(truncation={"direction": "Left", "max_length": 7, "strategy": "LongestFirst", "stride": 0}),
    ),
    "padding stored": written(
        padding={
            "strategy": {"Fixed": 20},
            "direction": "Right",
            "pad_to_multiple_of": 8,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }
    ),
    "model_max_length 4": config(model_max_length=4),
    "no truncation or padding stored": written(truncation=None, padding=None),
    "cased in both": both(config(do_lower_case=False), normalizer(lowercase=False)),
    "accents kept in both": both(config(strip_accents=False), normalizer(strip_accents=False)),
    "accents stripped, said so in one": normalizer(strip_accents=True),
    "accents stripped, said so in the other": config(strip_accents=True),
    "chinese unsplit in both": both(config(tokenize_chinese_chars=False), normalizer(handle_chinese_chars=False)),
    "tokenizer_class fast": config(tokenizer_class="BertTokenizerFast"),
    "tokenizer_class electra": config(tokenizer_class="ElectraTokenizer"),
    "tokenizer_class none": config(tokenizer_class=None),
    "as written": config(tokenizer_class="PreTrainedTokenizerFast", model_input_names=ALL),
    "as written, other case": both(
        config(tokenizer_class="PreTrainedTokenizerFast", model_input_names=ALL), normalizer(lowercase=False)
    ),
    "as written, no normalizer": both(
        config(tokenizer_class="TokenizersBackend", model_input_names=ALL), written(normalizer=None)
    ),
    "model_input_names": config(model_input_names=ALL),
    "BertProcessing": bert_processing,
    "model without its type": without_type,
    "other decoder": written(decoder=None),
    "no added tokens in the file": written(added_tokens=[]),
    "added tokens listed": list_added(),
    "one more added token": add("[NEW]"),
    "one more ordinary token": add("Qqnew", special=False, normalized=True, single_word=True),
    "one more token that takes blanks": add("[NEW]", lstrip=True, rstrip=True),
    "extra token that is added": both(add("[NEW]"), config(additional_special_tokens=["[NEW]"])),
    "extra token by a name of its own": both(add("[NEW]"), config(new_token="[NEW]")),
    "extra token in special_tokens_map": both(
        add("[NEW]"), put("special_tokens_map", "additional_special_tokens", value=["[NEW]"])
    ),
    "other cls name": both(rename("[CLS]", "<s>"), config(cls_token="<s>"), forget("special_tokens_map")),
    "other sep name in the map": both(
        rename("[SEP]", "</s>"), config(sep_token="</s>"), put("special_tokens_map", "sep_token", value="</s>")
    ),
    "cls with flags": put("special_tokens_map", "cls_token", value={**token("[CLS]", 0, lstrip=True), "id": None}),
    "mask with its type": config(mask_token={"__type": "AddedToken", "content": "Qqnew"}),
    "bos and eos": config(bos_token="[CLS]", eos_token="[SEP]"),
    "bos and eos behind the vocabulary": config(eos_token="[MASK]", bos_token="<s>"),
    "never_split": config(never_split=["new"], do_basic_tokenize=False),
}
REFUSED: dict[str, tuple[Change, str]] = {
    "do_lower_case": (
        config(do_lower_case=False),
        "normalizer.lowercase is True: expected False, .* by do_lower_case of tokenizer_config.json",
    ),
    "lowercase": (normalizer(lowercase=False), "normalizer.lowercase is False: expected True"),
    "strip_accents": (config(strip_accents=False), "normalizer.strip_accents is True: expected False"),
    "strip_accents null, cased": (
        both(config(do_lower_case=False, strip_accents=None), normalizer(lowercase=False, strip_accents=True)),
        "normalizer.strip_accents is True: expected False",
    ),
    "tokenize_chinese_chars": (
        config(tokenize_chinese_chars=False),
        "normalizer.handle_chinese_chars is True: expected False",
    ),
    "clean_text": (normalizer(clean_text=False), "normalizer.clean_text is False: expected True"),
    "normalizer null": (written(normalizer=None), "normalizer.type is None: expected 'BertNormalizer'"),
    "normalizer other": (written(normalizer={"type": "Lowercase"}), "normalizer.type is 'Lowercase'"),
    "pre_tokenizer null": (written(pre_tokenizer=None), "pre_tokenizer.type is None: expected 'BertPreTokenizer'"),
    "post_processor null": (
        written(post_processor=None),
        r"post_processor.single is None: expected \[\(\d+, 0\), \('A', 0\), \(\d+, 0\)\]",
    ),
    "post_processor null, as written": (
        both(written(post_processor=None), config(tokenizer_class="PreTrainedTokenizerFast", model_input_names=ALL)),
        r"adds no special tokens to a text: expected \[CLS\] and \[SEP\]",
    ),
    "pairs of one type": (
        put("tokenizer", "post_processor", "pair", 3, "Sequence", "type_id", value=0),
        "post_processor.pair is .* expected",
    ),
    "cls_token": (both(config(cls_token="[SEP]"), forget("special_tokens_map")), "post_processor.single is"),
    "cls_token in special_tokens_map": (put("special_tokens_map", "cls_token", value="[SEP]"), "post_processor.single"),
    "cls_token null": (
        both(config(cls_token=None), forget("special_tokens_map")),
        "cls_token is null: expected a token",
    ),
    "unk_token": (both(config(unk_token="[PAD]"), forget("special_tokens_map")), r"model.unk_token is '\[UNK\]'"),
    "unk_token outside the vocabulary": (
        both(config(unk_token="<unk>"), forget("special_tokens_map")),
        "no '<unk>' in its vocabulary",
    ),
    "max_input_chars_per_word": (
        put("tokenizer", "model", "max_input_chars_per_word", value=20),
        "max_input_chars_per_word is 20: expected 100",
    ),
    "continuing_subword_prefix": (
        put("tokenizer", "model", "continuing_subword_prefix", value="@@"),
        "prefix is '@@': expected '##'",
    ),
    "model type": (put("tokenizer", "model", "type", value="WordLevel"), "model.type is 'WordLevel'"),
    "added token with other flags": (
        both(list_added(), put("tokenizer", "added_tokens", 0, "lstrip", value=True)),
        r"added token '\[PAD\]' is",
    ),
    "added token unlisted": (both(list_added(), add("[NEW]")), r"added token '\[NEW\]' is"),
    "added token of another id": (put("tokenizer", "added_tokens", 0, "id", value=7), r"added token '\[PAD\]' is \(7"),
    "extra token": (config(extra_special_tokens=["[NEW]"]), r"added token '\[NEW\]' is None"),
    "truncation_side unknown": (config(truncation_side="middle"), "truncation_side"),
    "padding_side": (config(padding_side="left"), "padding_side of its tokeniser is 'left': expected 'right'"),
    "padding stored on the left": (
        written(
            padding={
                "strategy": "BatchLongest",
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            }
        ),
        "padding_side of its tokeniser is 'left'",
    ),
    "split_special_tokens": (config(split_special_tokens=True), "split_special_tokens of its tokeniser is True"),
    "model_input_names": (config(model_input_names=["input_ids", "attention_mask"]), "model_input_names of its"),
    "model_input_names, as written": (
        config(tokenizer_class="PreTrainedTokenizerFast"),
        "model_input_names is not there: expected token_type_ids",
    ),
    "tokenizer_class": (config(tokenizer_class="XLNetTokenizer"), "tokenizer_class is 'XLNetTokenizer': expected"),
    "tokenizer_class of another family": (
        config(tokenizer_class="RobertaTokenizer", model_input_names=ALL),
        "model.type is 'WordPiece': expected 'BPE'",
    ),
    "tokenizer_class without types": (
        config(tokenizer_class="DistilBertTokenizer"),
        "model_input_names is not there: expected token_type_ids among them, which DistilBertTokenizer leaves out",
    ),
    "tokenizer_class no name": (config(tokenizer_class=7), "tokenizer_class is 7: expected a name"),
    "auto_map": (config(auto_map={"AutoTokenizer": ["mine.Mine", None]}), "expected a tokeniser without code"),
    "fast_tokenizer_files": (config(fast_tokenizer_files=["tokenizer.4.0.0.json"]), "fast_tokenizer_files of its"),
}


FETCHED = [pytest.param(name, marks=pytest.mark.weights) for name in ("minilm", "bert-tiny")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("base") / "made", config=CONFIG)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["added_tokens"] = [token(word, id_) for id_, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("base", ["made", *FETCHED])
def test_ids_and_types_are_those_of_transformers(made: Path, tmp_path: Path, base: str, name: str) -> None:
    folder = made if base == "made" else cache_dir() / base
    assert_same(changed(folder, tmp_path / "model", FOLLOWED[name]), *SAME)


DISTILBERT: dict[str, Change] = {
    "no class": lambda documents: None,
    "its class": config(tokenizer_class="DistilBertTokenizer"),
    "its fast class": config(tokenizer_class="DistilBertTokenizerFast", do_lower_case=True),
    "BERT's class": config(tokenizer_class="BertTokenizer", model_input_names=["input_ids", "attention_mask"]),
    "pairs of one type": put("tokenizer", "post_processor", "pair", 3, "Sequence", "type_id", value=0),
    "as written": config(tokenizer_class="PreTrainedTokenizerFast"),
}


@pytest.mark.parametrize("name", DISTILBERT)
def test_distilbert_has_the_ids_of_transformers(made: Path, tmp_path: Path, name: str) -> None:
    change = both(put("config", "model_type", value="distilbert"), DISTILBERT[name])
    assert_same(changed(made, tmp_path / "model", change), TEXTS, PAIRS, LENGTHS, 0)


def test_types_that_distilberts_tokeniser_does_not_give_are_zero(made: Path, tmp_path: Path) -> None:
    change = both(put("config", "model_type", value="distilbert"), config(tokenizer_class="DistilBertTokenizer"))
    tokenizer = load_tokenizer(changed(made, tmp_path / "model", change), 9, token_types=0)
    assert set(tokenizer.encode("a film", "a song").type_ids) == {0}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_means_two_things_is_refused_by_name(made: Path, tmp_path: Path, name: str) -> None:
    change, sentence = REFUSED[name]
    with pytest.raises(SoRAError, match=sentence):
        load_tokenizer(changed(made, tmp_path / "model", change), 16)


@pytest.mark.parametrize("name", ["do_lower_case", "normalizer null", "post_processor null"])
def test_what_the_sentence_advises_mends_the_folder(made: Path, tmp_path: Path, name: str) -> None:
    folder = changed(made, tmp_path / "model", REFUSED[name][0])
    with pytest.raises(SoRAError) as caught:
        load_tokenizer(folder, 16)
    obey(str(caught.value), folder)
    assert_same(folder, *SAME)


@pytest.mark.parametrize("words", [["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film", "##s"]])
def test_what_the_sentence_advises_makes_a_tokeniser_of_a_vocabulary(
    made: Path, tmp_path: Path, words: list[str]
) -> None:
    folder = changed(made, tmp_path / "model", forget("tokenizer"))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(SoRAError, match=r"only vocab\.txt") as caught:
        load_tokenizer(folder, 16)
    obey(str(caught.value), folder)
    assert_same(folder, *SAME)
    assert load_tokenizer(folder, 16).encode("good films").ids == [2, 6, 7, 8, 3]
