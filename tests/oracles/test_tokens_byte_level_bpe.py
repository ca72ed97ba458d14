"""RoBERTa's token ids are those of transformers' AutoTokenizer for the same folder, or the folder is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_tokens import SPECIAL, tokenizer_document, write_byte_level_bpe
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
    obey,
    put,
    rename,
    written,
)

from sora_ref.errors import SoRAError
from sora_ref.run.data import read_hutto
from sora_ref.run.tokens import load_tokenizer
from sora_ref.storage.place import cache_dir

pytest.importorskip("transformers")

TEXTS = [
    "a good film",
    " a good film",
    "The CAST was very Bright; and so is this SONG!",
    "naïve café, Ångström — Éclair",
    "电影 is good 好 👍🏽 \U0001f468\u200d\U0001f469\u200d\U0001f467 \ud7ff\ue000\U0010ffff",
    "A <mask> story </s> and a <s> plot <pad><unk>  <mask>",
    "It's the cast's; we'll, I'M, can't",
    "  twice  two   three\n\nlines\t tab\r\n ",
    "unbelievably supercalifragilisticexpialidocious " * 6,
    "x" * 130,
    "",
    " ",
    "   \t\n",
    "tab\tand\x00control\x07 \u200b\ufeff\u00a0\u3000",
    "[CLS] new [NEW] qqnew token, QQNEW, xqqnew Ġgood",
]
PAIRS = [
    (TEXTS[2], TEXTS[8]),
    (TEXTS[8], TEXTS[2]),
    (TEXTS[0], TEXTS[3]),
    ("", TEXTS[4]),
    (TEXTS[5], TEXTS[5]),
    ("a", ""),
    ("", ""),
]
LENGTHS = (5, 9, 16)
SAME = (TEXTS, PAIRS, LENGTHS, 1)
NO_TYPES = ["input_ids", "attention_mask"]
TYPED = {"__type": "AddedToken", "content": "<mask>"}
NEW = {"__type": "AddedToken", "content": "[NEW]"}


def model(**keys: object) -> Change:
    return lambda documents: documents["tokenizer"]["model"].update(keys)


def pre_tokenizer(**keys: object) -> Change:
    return lambda documents: documents["tokenizer"]["pre_tokenizer"].update(keys)


def merges_as_pairs(documents: dict[str, Document]) -> None:
    """As tokenizers 0.20 and later write them."""
    part = documents["tokenizer"]["model"]
    part["merges"] = [merge.split(" ") for merge in part["merges"]]


def of_2020(documents: dict[str, Document]) -> None:
    """As the files of 2020 are: the model's type and what was new later are not there."""
    for key in ("type", "byte_fallback"):
        documents["tokenizer"]["model"].pop(key)
    documents["tokenizer"]["pre_tokenizer"].pop("use_regex")


def without_letters(documents: dict[str, Document]) -> None:
    """A vocabulary that lacks the letters of some bytes, so that é and emoji have none."""
    vocab = documents["tokenizer"]["model"]["vocab"]
    for letter in "ðŁĺ©Ã":
        del vocab[letter]


def template(second: int, between: str = "</s>") -> Change:
    """RoBERTa's post-processor in other words; the type of what comes second is not read."""

    def change(documents: dict[str, Document]) -> None:
        vocab = documents["tokenizer"]["model"]["vocab"]
        single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
        rest = [{"SpecialToken": {"id": between, "type_id": 0}}, {"Sequence": {"id": "B", "type_id": second}}, end]
        special = {token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in ("<s>", "</s>")}
        documents["tokenizer"]["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*single, end],
            "pair": [*single, end, *rest],
            "special_tokens": special,
        }

    return change


def without_mask(documents: dict[str, Document]) -> None:
    documents["tokenizer"]["added_tokens"].pop()


def roberta_config(documents: dict[str, Document]) -> None:
    """tokenizer_config.json as transformers 4 wrote it."""
    list_added()(documents)
    special = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
    config(
        **{f"{part}_token": token for part, token in special.items()},
        mask_token="<mask>",
        add_prefix_space=False,
        clean_up_tokenization_spaces=True,
        errors="replace",
        model_max_length=512,
        tokenizer_class="RobertaTokenizer",
        trim_offsets=True,
    )(documents)


FOLLOWED: dict[str, Change] = {
    "only tokenizer.json": lambda documents: None,
    "tokenizer_config of transformers 4": roberta_config,
    "tokenizer_config of the hub": config(model_max_length=512),
    "special_tokens_map": put(
        "special_tokens_map",
        "mask_token",
        value={"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False},
    ),
    "merges as pairs": merges_as_pairs,
    "a file of 2020": of_2020,
    "tokenizer_class": config(tokenizer_class="RobertaTokenizer"),
    "tokenizer_class fast": config(tokenizer_class="RobertaTokenizerFast"),
    "prefix space in both": both(config(add_prefix_space=True), pre_tokenizer(add_prefix_space=True)),
    "prefix space of the post-processor": put("tokenizer", "post_processor", "add_prefix_space", value=True),
    "offsets": both(
        config(trim_offsets=False),
        pre_tokenizer(trim_offsets=False),
        put("tokenizer", "post_processor", "trim_offsets", value=False),
    ),
    "unk_token of a whole alphabet": model(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
    "prefix and suffix null": model(continuing_subword_prefix=None, end_of_word_suffix=None),
    "no dropout": model(dropout=0.0),
    "letters that are left out": without_letters,
    "no merges": model(merges=[]),
    "template": template(0),
    "template of two types": template(1),
    "decoder": written(decoder=None),
    "clean up": config(clean_up_tokenization_spaces=True),
    "truncation stored on the left": written(
        truncation={"direction": "Left", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
    ),
    "truncation_side left": config(truncation_side="left"),
    "padding stored": written(
        padding={
            "strategy": {"Fixed": 20},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 1,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        }
    ),
    "mask that strips nothing": put("tokenizer", "added_tokens", 4, "lstrip", value=False),
    "mask that is not listed": without_mask,
    "no added tokens in the file": written(added_tokens=[]),
    "added tokens listed": list_added(),
    "one more added token": add("[NEW]"),
    "one more ordinary token": add("qqnew", special=False, normalized=True, single_word=True),
    "one more token that takes blanks": add("[NEW]", lstrip=True, rstrip=True),
    "extra token that is added": both(add("[NEW]"), config(additional_special_tokens=["[NEW]"])),
    "other cls name": both(rename("<s>", "[CLS]"), config(cls_token="[CLS]", bos_token="[CLS]")),
    "as written": config(tokenizer_class="PreTrainedTokenizerFast"),
    "as written, prefix space": both(config(tokenizer_class="TokenizersBackend"), pre_tokenizer(add_prefix_space=True)),
    "as written, unk_token": both(
        config(tokenizer_class="TokenizersBackend"), without_letters, model(unk_token="<unk>")
    ),
    "model_input_names": config(model_input_names=NO_TYPES),
    "model_input_names with types": config(model_input_names=[*NO_TYPES, "token_type_ids"]),
}
FOLLOWED |= {
    "mask of the configuration": both(without_mask, config(mask_token={**TYPED, "lstrip": True})),
    "extra token with its type that is added": both(add("[NEW]", normalized=True), config(new_token=NEW)),
}
REFUSED: dict[str, tuple[Change, str]] = {
    "extra token with its type": (config(new_token=NEW), r"added token '\[NEW\]' is None"),
    "add_prefix_space": (
        config(add_prefix_space=True),
        "pre_tokenizer.add_prefix_space is False: expected True, .* by add_prefix_space of tokenizer_config.json",
    ),
    "add_prefix_space in tokenizer.json": (
        pre_tokenizer(add_prefix_space=True),
        "pre_tokenizer.add_prefix_space is True: expected False",
    ),
    "add_prefix_space null": (config(add_prefix_space=None), "add_prefix_space: damaged"),
    "use_regex": (pre_tokenizer(use_regex=False), "pre_tokenizer.use_regex is False: expected True"),
    "pre_tokenizer": (
        written(pre_tokenizer={"type": "Whitespace"}),
        "pre_tokenizer.type is 'Whitespace': expected 'ByteLevel'",
    ),
    "normalizer": (written(normalizer={"type": "Lowercase"}), "normalizer.type is 'Lowercase': expected None"),
    "unk_token": (both(without_letters, model(unk_token="<unk>")), "model.unk_token is '<unk>': expected None"),
    "byte_fallback": (both(without_letters, model(byte_fallback=True)), "model.byte_fallback is True: expected False"),
    "dropout": (model(dropout=0.1), "model.dropout is 0.1: expected None"),
    "ignore_merges": (model(ignore_merges=True), "model.ignore_merges is True: expected False"),
    "continuing_subword_prefix": (
        model(continuing_subword_prefix="##", merges=[]),
        "model.continuing_subword_prefix is '##': expected ''",
    ),
    "end_of_word_suffix": (model(end_of_word_suffix="</w>"), "model.end_of_word_suffix is '</w>': expected ''"),
    "post_processor null": (
        written(post_processor=None),
        r"post_processor.single is None: expected \[\(0, 0\), \('A', 0\), \(2, 0\)\]",
    ),
    "post_processor ByteLevel": (
        written(
            post_processor={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        ),
        "post_processor.single is None",
    ),
    "post_processor null, as written": (
        both(written(post_processor=None), config(tokenizer_class="TokenizersBackend")),
        "adds no special tokens to a text: expected <s> and </s> around it",
    ),
    "BertProcessing": (
        written(post_processor={"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}),
        "post_processor.pair is",
    ),
    "other between": (template(0, "<s>"), "post_processor.pair is"),
    "cls_token": (config(cls_token="<pad>"), r"post_processor.single is \[\(0, 0\).*: expected \[\(1, 0\)"),
    "cls_token null": (config(cls_token=None), "cls_token is null: expected a token"),
    "sep_token null": (config(sep_token=None), "sep_token is null: expected a token"),
    "model type": (model(type="Unigram"), "model.type is 'Unigram': expected 'BPE'"),
    "added token with other flags": (
        both(list_added(), put("tokenizer", "added_tokens", 4, "lstrip", value=False)),
        "added token '<mask>' is",
    ),
    "added token of another id": (put("tokenizer", "added_tokens", 0, "id", value=7), r"added token '<s>' is \(7"),
    "padding_side": (config(padding_side="left"), "padding_side of its tokeniser is 'left': expected 'right'"),
    "split_special_tokens": (config(split_special_tokens=True), "split_special_tokens of its tokeniser is True"),
    "tokenizer_class": (config(tokenizer_class="GPT2Tokenizer"), "tokenizer_class is 'GPT2Tokenizer': expected one of"),
    "tokenizer_class of another family": (
        config(tokenizer_class="BertTokenizer"),
        r"no '\[UNK\]' in its vocabulary|model.type is 'BPE': expected 'WordPiece'",
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_byte_level_bpe(folder)
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    return folder


@pytest.mark.parametrize("name", FOLLOWED)
def test_ids_are_those_of_transformers(made: Path, tmp_path: Path, name: str) -> None:
    assert_same(changed(made, tmp_path / "model", FOLLOWED[name]), *SAME)


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_means_two_things_is_refused_by_name(made: Path, tmp_path: Path, name: str) -> None:
    change, sentence = REFUSED[name]
    with pytest.raises(SoRAError, match=sentence):
        load_tokenizer(changed(made, tmp_path / "model", change), 16, token_types=1)


@pytest.mark.parametrize("name", ["add_prefix_space", "normalizer", "post_processor null"])
def test_what_the_sentence_advises_mends_the_folder(made: Path, tmp_path: Path, name: str) -> None:
    folder = changed(made, tmp_path / "model", REFUSED[name][0])
    with pytest.raises(SoRAError) as caught:
        load_tokenizer(folder, 16, token_types=1)
    obey(str(caught.value), folder)
    assert_same(folder, *SAME)


def test_what_the_sentence_advises_makes_a_tokeniser_of_vocabulary_and_merges(made: Path, tmp_path: Path) -> None:
    folder = changed(made, tmp_path / "model", forget("tokenizer"))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((made / name).read_bytes())
    with pytest.raises(SoRAError, match=r"only vocab\.json and merges\.txt: expected it too") as caught:
        load_tokenizer(folder, 16, token_types=1)
    obey(str(caught.value), folder)
    assert_same(folder, *SAME)
    good = tokenizer_document()["model"]["vocab"]["Ġgood"]
    assert load_tokenizer(folder, 16, token_types=1).encode("a good").ids[2] == good


@pytest.mark.weights
def test_real_snippets_with_a_vocabulary_learned_from_them_have_the_ids_of_transformers(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer

    texts = [example.text for example in read_hutto(cache_dir() / "hutto2014").splits["test"][:100]]
    assert len(set(texts)) == 100
    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(texts, vocab_size=1200, min_frequency=2, special_tokens=[*SPECIAL, "<mask>"])
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    document = tokenizer_document()
    document["model"] |= json.loads(learned.to_str())["model"]
    document["added_tokens"] = [
        {**token, "id": learned.token_to_id(token["content"])} for token in document["added_tokens"]
    ]
    ids = [learned.token_to_id(token) for token in ("</s>", "<s>")]
    document["post_processor"] |= {"sep": ["</s>", ids[0]], "cls": ["<s>", ids[1]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert_same(tmp_path, texts, list(zip(texts[::2], texts[1::2], strict=True)), (8, 24, 128), 1)
