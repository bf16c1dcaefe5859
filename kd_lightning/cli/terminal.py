"""Keeping the terminal for what the user can act on."""

from __future__ import annotations

import logging
import warnings

NOISE = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own use of torch, and no user's business
    r".*does not have many workers.*",  # tokenised rows are collated faster than a worker could send them
    r".*The `srun` command is available.*",
    r".*overridden `on_before_batch_transfer` in `LightningModule`.*",  # a cached teacher's, which does no harm
    r".*Precision .* is not supported by the model summary.*",
)


def quiet() -> None:
    """Silence hints of the libraries underneath that do not concern a run of ours; real warnings stay."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.raiseExceptions = False  # an error of the run itself says that nothing can be written
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
