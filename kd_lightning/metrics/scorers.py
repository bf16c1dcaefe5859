"""Exact match and F1 of answers, as SQuAD 1.1 and CMRC 2018 count them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""Characters that CMRC's official scorer drops; `……` is on its list, too, but is two characters, so never found."""

_CHARACTER = re.compile("[\u4e00-\u9fa5]")
_WORD = re.compile(
    r"""
    \.{2,} | --+ | [][(){}<>;@\#$%&?!"“”„«»—–]           # signs, each by itself
  | [,:](?!\d)                                            # but 1,000 is one word
  | n't(?!\S) | '(?:s|m|d|ll|re|ve)?(?!\S)                # the second part of "isn't" and "it's"
  | \.(?=[])}>"'\s]*$)                                    # the last full stop of all
  | (?: (?! \.{2,} | --+ | [,:](?!\d) | (?:n't|'(?:s|m|d|ll|re|ve)?)(?!\S) | \.(?=[])}>"'\s]*$) )
        [^][(){}<>;@\#$%&?!"“”„«»—–\s] )+
    """,
    re.VERBOSE,
)


def squad_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return `exact_match` and `f1` in percent, as the official scorer prints them.

    Case, punctuation, articles and spaces do not count; F1 is over bags of words; the best of several references
    counts. Rajpurkar et al. 2016, section 6.1, as torchmetrics computes it: an answer of articles and punctuation only
    has F1 100 with a reference of that kind, and 0 by SQuAD 1.1's own script.

    Args:
        predictions: the answer to each question, by its id.
        references: right answers, one or several, of each question that is scored, by the same ids.

    Example:
        >>> squad_scores({"a": "the Cat", "b": "a dog"}, {"a": ["cat"], "b": ["big dog", "cow"]})
        {'exact_match': 50.0, 'f1': 83.33333587646484}

    """
    from torchmetrics.functional.text import squad

    if not references:
        return {"exact_match": 0.0, "f1": 0.0}
    found = [{"id": name, "prediction_text": predictions[name]} for name in references]
    targets = [{"id": name, "answers": {"text": list(texts)}} for name, texts in references.items()]
    scores = squad(found, targets)  # type: ignore[arg-type]
    return {name: scores[name].item() for name in ("exact_match", "f1")}


def cmrc_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return `exact_match` and `f1` in percent, as the official scorer prints them.

    Punctuation, case and outer spaces do not count. F1 is of the longest run of Chinese characters, and words of other
    scripts, that answer and reference share; the best of several references counts. Cui et al. 2019, section 3.1, in
    the details as their script `cmrc2018_evaluate.py` (v5). It splits words by NLTK; this does it by the same rules of
    the Penn Treebank.

    Args:
        predictions: the answer to each question, by its id.
        references: right answers, one or several, of each question that is scored, by the same ids.

    Example:
        >>> cmrc_scores({"a": "在1963年", "b": "北京"}, {"a": ["1963年。"], "b": ["上海", "北京"]})
        {'exact_match': 50.0, 'f1': 90.0}

    """
    exact = [any(bare(predictions[name]) == bare(text) for text in texts) for name, texts in references.items()]
    f1 = [max(_f1(predictions[name], text) for text in texts) for name, texts in references.items()]
    count = max(len(references), 1)
    return {"exact_match": 100.0 * sum(exact) / count, "f1": 100.0 * sum(f1) / count}


def _f1(prediction: str, reference: str) -> float:
    predicted, right = segments(prediction), segments(reference)
    shared = longest_run(predicted, right)
    return 2 * shared / (len(predicted) + len(right)) if shared else 0.0


@lru_cache(maxsize=65536)  # every validation has the same references
def bare(text: str) -> str:
    """Return a text in lower case without punctuation.

    Example:
        >>> bare(" 《Jaws》。")
        'jaws'

    """
    return "".join(character for character in text.lower().strip() if character not in PUNCTUATION)


@lru_cache(maxsize=65536)
def segments(text: str) -> tuple[str, ...]:
    """Return the characters of Chinese text, and the words of other scripts, without punctuation.

    Example:
        >>> segments("光荣和ω-force，1,000 (10%)")
        ('光', '荣', '和', 'ωforce1,000', '(', '10', '%', ')')

    """
    spaced = _CHARACTER.sub(lambda found: f"\0{found[0]}\0", bare(text))
    parts = [part for part in spaced.split("\0") if part]
    return tuple(word for part in parts for word in ([part] if _CHARACTER.match(part) else _WORD.findall(part)))


def longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest run of adjacent items that two sequences share.

    Example:
        >>> longest_run("abxcd", "zabycd"), longest_run("", "a")
        (2, 0)

    """
    longest, before = 0, [0] * (len(other) + 1)
    for item in one:
        row = [0] * (len(other) + 1)
        for place, candidate in enumerate(other, start=1):
            if item == candidate:
                row[place] = before[place - 1] + 1
        longest, before = max(longest, *row), row
    return longest
