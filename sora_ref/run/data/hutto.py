"""The rated sentences of Hutto & Gilbert (2014): movie reviews, tweets, product reviews, editorials.

Each file has rows `id TAB rating TAB text` (CR LF, no header line), the rating being the mean of some twenty people's
on −4 … 4. As classification the sign of the rating is the sentiment, and ratings of exactly 0 are left out; as
regression the rating is the label and zeros stay.

The split is drawn by text, see `split`, and is the same for both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from sora_ref.errors import SoRAError, shown
from sora_ref.run.artefacts import ARTEFACTS
from sora_ref.run.data.delimited import read_table
from sora_ref.run.data.split import same_text, split_by_text
from sora_ref.run.data.task import Example, Kind, Task

FILES: Mapping[str, str] = MappingProxyType(
    {
        "movies": "movieReviewSnippets_GroundTruth.txt",
        "tweets": "tweets_GroundTruth.txt",
        "products": "amazonReviewSnippets_GroundTruth.txt",
        "editorials": "nytEditorialSnippets_GroundTruth.txt",
    }
)

SOURCE = f"{ARTEFACTS['hutto2014'].licence} licence; {ARTEFACTS['hutto2014'].cite}"


def read_hutto(
    folder: Path,
    which: str = "movies",
    kind: Kind = "classification",
    seed: int = 0,
    *,
    say: Callable[[str], None] | None = None,
) -> Task:
    """Read one of `FILES` from `folder` into a task with the splits of `split_by_text`.

    Labels are `negative` and `positive`, judged by accuracy and F1; or the rating, judged by Pearson's and
    Spearman's correlation. Ids are the file's. `say` hears how many rows repeat an earlier text and how many ratings
    of 0 were left out.

    Raises `SoRAError` for an unknown `which`, a negative seed, and the faults of `read_table`.
    """
    if which not in FILES:
        raise SoRAError(f"unknown set of rated sentences {shown(which)}: expected one of {', '.join(FILES)}")
    examples, _ = read_table(
        Path(folder) / FILES[which], id="1", label="2", text="3", format="tsv", header=False, kind="regression"
    )
    splits = split_by_text(examples, seed)
    if say is not None:
        repeats = len(examples) - len({same_text(example) for example in examples})
        say(f"{which}: {len(examples)} rows; repeats of an earlier text, kept in its split: {repeats}")
    if kind == "regression":
        return Task(f"{which}-rating", kind, (), ("pearson", "spearman"), splits, SOURCE)
    signed = {split: tuple(_by_sign(part)) for split, part in splits.items()}
    if say is not None:
        say(f"{which}: ratings of exactly 0, left out: {len(examples) - sum(map(len, signed.values()))}")
    return Task(which, kind, ("negative", "positive"), ("accuracy", "f1"), signed, SOURCE)


def _by_sign(examples: Sequence[Example]) -> list[Example]:
    return [replace(example, label=int(example.label > 0)) for example in examples if example.label]
