"""Exact match and F1 of answers in Chinese, as CMRC 2018 counts them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What the official scorer drops; `……` is on its list, too, but is two characters and so never found."""

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


def cmrc_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return `exact_match` and `f1` in percent, as the official scorer prints them.

    Punctuation, case and outer spaces do not count. F1 is of the longest run of Chinese characters, and words of other
    scripts, that answer and reference share; of several references the best counts. Cui et al. 2019, section 3.1, in
    the details as their script `cmrc2018_evaluate.py` (v5). It takes words apart by NLTK, here it is done by the same
    rules of the Penn Treebank.

    Args:
        predictions: the answer to each question, by its id.
        references: right answers, one or several, of each question that counts, by the same ids.

    Example:
        >>> cmrc_scores({"a": "在1963年", "b": "北京"}, {"a": ["1963年。"], "b": ["上海", "北京"]})
        {'exact_match': 50.0, 'f1': 90.0}

    """
    exact = [_exact(predictions[name], texts) for name, texts in references.items()]
    f1 = [max(_f1(predictions[name], text) for text in texts) for name, texts in references.items()]
    count = max(len(references), 1)
    return {"exact_match": 100.0 * sum(exact) / count, "f1": 100.0 * sum(f1) / count}


def _exact(prediction: str, references: Sequence[str]) -> bool:
    return any(bare(prediction) == bare(text) for text in references)


def _f1(prediction: str, reference: str) -> float:
    ours, theirs = segments(prediction), segments(reference)
    shared = longest_run(ours, theirs)
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


@lru_cache(maxsize=65536)  # references come again in every validation
def bare(text: str) -> str:
    """Return a text in lower case without punctuation.

    Example:
        >>> bare(" 《Jaws》。")
        'jaws'

    """
    return "".join(character for character in text.lower().strip() if character not in PUNCTUATION)


@lru_cache(maxsize=65536)
def segments(text: str) -> tuple[str, ...]:
    """Return the characters of Chinese, and the words of other scripts, without punctuation.

    Example:
        >>> segments("光荣和ω-force，1,000 (10%)")
        ('光', '荣', '和', 'ωforce1,000', '(', '10', '%', ')')

    """
    spaced = _CHARACTER.sub(lambda found: f"\0{found[0]}\0", bare(text))
    parts = [part for part in spaced.split("\0") if part]
    return tuple(word for part in parts for word in ([part] if _CHARACTER.match(part) else _WORD.findall(part)))


def longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest run of neighbours that two sequences share.

    Example:
        >>> longest_run("abxcd", "zabycd"), longest_run("", "a")
        (2, 0)

    """
    longest, before = 0, [0] * (len(other) + 1)
    for item in one:
        row = [0] * (len(other) + 1)
        for place, twin in enumerate(other, start=1):
            if item == twin:
                row[place] = before[place - 1] + 1
        longest, before = max(longest, *row), row
    return longest
