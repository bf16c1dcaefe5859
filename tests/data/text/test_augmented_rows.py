"""What becomes of whole rows: special tokens, pairs, token types, and what decides about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_lightning.core.errors import DataError
from kd_lightning.data import (
    Augmentation,
    AugmentedRows,
    Delete,
    LongReorder,
    Mask,
    NGramSample,
    ShortReorder,
    SyntheticSentiment,
    TextClassification,
    TokenRows,
    TrainBatches,
)
from kd_lightning.data.text.augmented_rows import special_ids
from kd_lightning.data.text.tokenizing import encode

MARK = -7  # stands for [MASK] below
CLS, SEP = 2, 3
WORDS = "good bad film plot very not"
PAIRS = [["good bad film plot very not good bad", "good", "film plot"], ["plot film", "not very good film", "bad"]]
EVERY = [
    [Mask(0.4, token="[UNK]")],
    [Delete(0.5)],
    [NGramSample()],
    [ShortReorder(p=(0.4, 0.2, 0.2, 0.1, 0.1))],
    [LongReorder(0.4, 4)],
    [ShortReorder(p=(0.4, 0.2, 0.2, 0.1, 0.1)), Delete(0.3), NGramSample(share=0.5), Mask(0.4, token="[UNK]")],
]
every = pytest.mark.parametrize("augment", EVERY, ids=lambda augment: "+".join(type(a).__name__ for a in augment))


def rows_of(tokenizer: Any, texts: list[list[str]]) -> TokenRows:
    return encode(tokenizer, texts, np.arange(len(texts[0])) % 2, max_length=64)


def parts(ids: list[int]) -> tuple[list[int], list[int]]:
    """Return the two texts of a row of a pair, after a look at what is between them."""
    assert (ids[0], ids[-1], ids.count(CLS), ids.count(SEP)) == (CLS, SEP, 1, 2)
    middle = ids.index(SEP)
    return ids[1:middle], ids[middle + 1 : -1]


@every
def test_the_two_texts_of_a_pair_stay_apart_and_keep_their_types(augment, tokenizer):
    rows = rows_of(tokenizer, PAIRS)
    augmented = AugmentedRows(rows, augment, tokenizer)
    changed = False
    for row in range(3):
        before = rows[row]
        old = parts(before["input_ids"].tolist())
        for epoch in range(20):
            now = augmented[row, epoch]
            new = parts(now["input_ids"].tolist())
            for text, was in zip(new, old, strict=True):
                assert 0 < len(text) <= len(was)
                assert set(text) <= {*was, tokenizer.unk_token_id}
            types = [0] * (len(new[0]) + 2) + [1] * (len(new[1]) + 1)
            assert now["token_type_ids"].tolist() == types
            assert (now["labels"], now["sample_id"]) == (before["labels"], row)
            assert now["input_ids"].dtype == before["input_ids"].dtype
            changed |= new != old
    assert changed


@every
def test_a_row_is_a_function_of_seed_epoch_and_row(augment, tokenizer):
    rows = rows_of(tokenizer, [[f"{WORDS} {WORDS} {WORDS}"] * 4])

    def seen(seed: int, *keys: tuple[int, int]) -> list[list[int]]:
        augmented = AugmentedRows(rows, augment, tokenizer, seed)
        return [augmented[key]["input_ids"].tolist() for key in keys]

    keys = [(row, epoch) for row in range(4) for epoch in range(4)]
    assert seen(0, *keys) == seen(0, *keys[::-1])[::-1]
    assert len({tuple(ids) for ids in seen(0, *keys)}) > 4  # the four texts are the same
    assert seen(0, *keys) != seen(1, *keys)


def test_augmentations_follow_each_other_in_their_order(tokenizer):
    rows = rows_of(tokenizer, [["good bad film"]])
    for augment, length in ([Delete(1.0), NGramSample([3])], 3), ([NGramSample([2]), Mask(1.0, token="very")], 4):
        ids = AugmentedRows(rows, augment, tokenizer)[0, 0]["input_ids"].tolist()
        assert len(ids) == length
    assert ids[1:-1] == [tokenizer.get_vocab()["very"]] * 2


def test_an_unknown_word_is_part_of_the_text_and_an_empty_text_stays_empty(tokenizer):
    rows = rows_of(tokenizer, [["strange good", ""]])
    augmented = AugmentedRows(rows, [Mask(1.0, token="film")], tokenizer)
    film = tokenizer.get_vocab()["film"]
    assert augmented[0, 0]["input_ids"].tolist() == [CLS, film, film, SEP]
    assert augmented[1, 0]["input_ids"].tolist() == [CLS, SEP]
    bare = AugmentedRows(
        TokenRows({"input_ids": np.array([])}, np.array([0, 0]), {"labels": np.array([0])}), [Delete()], tokenizer
    )
    assert bare[0, 0]["input_ids"].tolist() == []


def test_an_end_mark_that_is_also_the_unknown_token_stays(make_tokenizer):
    like_gpt2 = make_tokenizer(cls_token=None, sep_token=None, pad_token="[PAD]", unk_token="[SEP]", eos_token="[SEP]")
    assert special_ids(like_gpt2).tolist() == [0, 3]
    like_bert = make_tokenizer(mask_token="very")
    assert special_ids(like_bert).tolist() == [0, CLS, SEP]  # neither [UNK] nor the mask


def test_the_mask_token_is_the_tokenizers_and_a_missing_one_is_an_error_in_setup(make_tokenizer, root):
    masked = make_tokenizer(mask_token="very")
    assert Mask().bind(masked).token == masked.mask_token_id == 8
    assert Mask(token="film").bind(masked).token == masked.get_vocab()["film"]
    with pytest.raises(DataError, match=r"this tokenizer has none: .* such as token='\[UNK\]'"):
        films(root, make_tokenizer(), augment=[Mask()]).setup()
    for token in ("filn", 10, -1):
        with pytest.raises(DataError, match=r"none of the tokenizer's 10 tokens"):
            Mask(token=token).bind(masked)


def test_tokens_with_labels_of_their_own_are_errors(tokenizer):
    rows = TokenRows({"input_ids": np.array([5]), "tags": np.array([1])}, np.array([0, 1]), {"labels": np.array([0])})
    with pytest.raises(DataError, match="cannot change a row's tags along with its tokens"):
        AugmentedRows(rows, [Delete()], tokenizer)


# -- in a data module ----------------------------------------------------------------------------------------------

SOME = [Delete(0.3), ShortReorder((0.5, 0.5, 0, 0, 0))]


def films(root: Path, tokenizer: Any, **settings: Any) -> TextClassification:
    settings = {"batch_size": 4, "cache_dir": root.parent / "cache", "augment": SOME} | settings
    return TextClassification("films", "sentence", tokenizer=tokenizer, root=root, **settings)


def seen(data: Any, epoch: int = 0) -> dict[int, list[int]]:
    """Return what training gives in an epoch, by row."""
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    found = {}
    for batch in loader:
        for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"], batch["sample_id"], strict=True):
            found[row.item()] = ids[mask.bool()].tolist()
    return found


@pytest.mark.parametrize("augment", [SOME, {"one": SOME[0], "off": None, "two": SOME[1]}], ids=["list", "by name"])
def test_training_rows_change_from_epoch_to_epoch_and_validation_rows_never(root, tokenizer, augment):
    data, plain = films(root, tokenizer, augment=augment), films(root, tokenizer, augment=None)
    data.setup()
    augmented = AugmentedRows(data._rows["train"], SOME, tokenizer, data.seed)
    for epoch in (0, 5):
        expected = {row: augmented[row, epoch]["input_ids"].tolist() for row in range(40)}
        assert seen(data, epoch) == expected
        assert seen(plain, epoch) != expected
    assert seen(data, 0) != seen(data, 5)
    ours, theirs = ([batch["input_ids"] for batch in made.val_dataloader()] for made in (data, plain))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_order_of_rows_is_that_without_augmentations(root, tokenizer):
    orders = [list(films(root, tokenizer, augment=a).train_dataloader().batch_sampler) for a in (SOME, None)]
    assert [[row for row, _ in batch] for batch in orders[0]] == orders[1]


def test_what_is_on_disk_does_not_know_of_augmentations_but_the_fingerprint_does(root, tokenizer):
    changes = [None, SOME, SOME[::-1], [Delete(0.31)], [Delete(0.3, share=0.5)]]
    made = [films(root, tokenizer, augment=augment) for augment in changes]
    for data in made:
        data.setup()
    assert len(list((root.parent / "cache" / "data").glob("films-*"))) == 2
    assert len({data.fingerprint for data in made}) == len(changes)
    assert films(root, tokenizer, augment=[]).fingerprint == made[0].fingerprint
    assert films(root, tokenizer, augment=list(SOME), seed=3).fingerprint == made[1].fingerprint


def test_the_made_up_language_takes_augmentations_too():
    data = SyntheticSentiment(train_size=50, validation_size=10, augment=[Mask(0.5, token="[UNK]")])
    plain = SyntheticSentiment(train_size=50, validation_size=10)
    assert data.fingerprint != plain.fingerprint
    unknown = [sum(ids.count(1) for ids in seen(made).values()) for made in (data, plain)]
    assert unknown[0] > 100 > unknown[1] == 0


def test_what_is_no_augmentation_is_named(root, tokenizer):
    with pytest.raises(DataError, match=r"such as kd\.data\.Mask\(0\.1\), but got 'mask'"):
        films(root, tokenizer, augment=["mask"])
    with pytest.raises(DataError, match="such as"):
        films(root, tokenizer, augment={"mask": lambda tokens, random: tokens})


def test_overfitting_repeats_the_first_epochs_rows():
    repeated = TrainBatches([3, 4, 5], batch_size=3, shuffle=False, with_view=True)
    repeated.set_epoch(4)
    assert sorted(next(iter(repeated))) == [(0, 0), (1, 0), (2, 0)]
    moving = TrainBatches([3, 4, 5], batch_size=3, with_view=True)
    moving.set_epoch(4)
    assert sorted(next(iter(moving))) == [(0, 4), (1, 4), (2, 4)]


def test_one_of_your_own_counts_in_the_fingerprint(root, tokenizer):
    class Mine(Augmentation):
        def change(self, tokens: np.ndarray, random: np.random.Generator) -> np.ndarray:
            return tokens[::-1]

    made = [films(root, tokenizer, augment=augment).fingerprint for augment in ([Mine()], [Mine()], [Mine(share=0.5)])]
    assert made[0] == made[1] != made[2]
