"""Exact match and F1 of answers, as SQuAD 1.1 counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def squad_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return `exact_match` and `f1` in percent, as the official scorer prints them.

    Case, punctuation, articles and spaces do not count; F1 is over bags of words; of several references the best
    counts. Rajpurkar et al. 2016, section 6.1, as torchmetrics computes it: an answer that is nothing but articles and
    signs has F1 100 with a reference of that kind, where SQuAD 1.1's own script says 0.

    Args:
        predictions: the answer to each question, by its id.
        references: right answers, one or several, of each question that counts, by the same ids.

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
