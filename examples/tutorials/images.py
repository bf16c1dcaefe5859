# %% [markdown]
# # Images with a network of your own: from a folder of files to a small student
#
# A folder of images per class, a convolutional network of your own as teacher, and a narrower one that learns from the
# labels alone or from the teacher too: from its logits and from its feature maps, live and from a cache of augmented
# views. Everything is drawn here, tiny, and runs offline in less than a minute on a CPU.

# %%
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from PIL import Image
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

import kd_lightning as kd

seed_everything(0, verbose=False)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The data
#
# Noisy pictures of a horizontal bar, a vertical bar or a square, as PNG files in `photos/SPLIT/CLASS/`.

# %%
CLASSES = ["horizontal", "square", "vertical"]


def draw(split: str, count: int, seed: int) -> None:
    """Write images of one split."""
    random = np.random.default_rng(seed)
    for number in range(count):
        kind, (top, left) = CLASSES[number % 3], random.integers(2, 11, size=2)
        height, width = {"horizontal": (2, 14), "square": (5, 5), "vertical": (14, 2)}[kind]
        pixels = random.normal(110, 60, (16, 16, 3))
        pixels[top : top + height, left % 3 if width > 5 else left : left + width] += 70
        file = folder / "photos" / split / kind / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)


draw("train", 900, seed=1)
draw("validation", 300, seed=2)

# %% [markdown]
# The data module decodes the files once and maps the pixels into memory after that. Shifts and flips are functions of
# (seed, view, image): the same for any number of workers, devices or batch sizes. With `views=4` the augmented images
# repeat every four epochs, so that a teacher's outputs for them can be cached. On the command line this is
# `data=image_folder data.path=photos augment=[crop]`.

# %%
data = kd.data.ImageClassification(
    "photos",
    path=folder / "photos",
    augment=[kd.data.RandomCrop(2), kd.data.Flip()],
    views=4,
    batch_size=60,
    cache_dir=folder / "cache",
)
data.setup()
batch = next(iter(data.train_dataloader()))
print(data.sizes, data.classes, tuple(batch["pixel_values"].shape))

# %% [markdown]
# ## The networks
#
# Any `nn.Module` will do. Module paths are addresses: `body.2` is the last feature map. `main_input_name` lets the
# widths of all features be found before anything is trained.


# %%
class Network(nn.Module):
    """Three convolutions, the mean over pixels, and a linear head."""

    main_input_name = "pixel_values"

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width]
        self.body = nn.Sequential(*(self.block(*pair) for pair in pairwise(widths)))
        self.head = nn.Linear(4 * width, len(CLASSES))

    @staticmethod
    def block(inner: int, outer: int) -> nn.Sequential:
        """Return a convolution that halves height and width."""
        return nn.Sequential(nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.BatchNorm2d(outer), nn.ReLU())

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (rows, classes)."""
        return self.head(self.body(pixel_values).mean((2, 3)))


def fit(
    student: nn.Module, teacher: kd.TeacherSource | nn.Module | None, terms: dict[str, kd.Term], epochs: int
) -> float:
    """Train, and return the accuracy on the validation split."""
    module = kd.DistillationModule(
        student,
        teacher,
        kd.Objective(terms),
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
        metrics={"accuracy": MulticlassAccuracy(3, average="micro")},
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=data)
    return float(trainer.callback_metrics["val/accuracy"])


def small() -> Network:
    """Return a narrow network, with the same weights each time."""
    torch.manual_seed(0)
    return Network(width=4)


hard = {"hard": kd.Term(kd.Match("logits", "labels"), kd.losses.HardLabel())}
teacher = Network(width=16)
scores = {"teacher": fit(teacher, None, hard, epochs=8)}

# %% [markdown]
# ## The student, alone and distilled
#
# Soft targets on the logits, and the last feature map through a 1 × 1 convolution, because the student's has fewer
# channels (FitNets, Romero et al. 2015).

# %%
distil = hard | {
    "logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget(temperature=4.0), weight=0.25),
    "maps": kd.Term(kd.Match("body.2", "body.2"), kd.losses.HiddenMSE(), projection="conv"),
}
scores["alone"] = fit(small(), None, hard, epochs=8)
scores["distilled"] = fit(student := small(), teacher, distil, epochs=8)

# %% [markdown]
# ## From a cache
#
# The teacher runs once on each of the four views of every image; the training then reads what it returned.

# %%
quiet_trainer = Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
cache = kd.TeacherCache.build(
    teacher,
    data.iterate_once(),
    folder / "teacher",
    ["logits", "body.2"],
    trainer=quiet_trainer,
    data=data.cached_as,
)
print(cache)
scores["distilled, cached"] = fit(small(), kd.CachedTeacher(cache.path), distil, epochs=8)
for name, accuracy in scores.items():
    print(f"{name:>18} {accuracy:.3f}")

# %% [markdown]
# One seed on 300 images proves little: the standard error of these accuracies is about 0.02. Compare several seeds
# before you believe a difference.
#
# ## Take it away
#
# The student is the plain network. The image processor that is saved with it brings any image to its input.

# %%
exported = kd.export(student, folder / "student", processor=data.processor)
weights = sorted(path.name for path in exported.iterdir())
picture = Image.open(folder / "photos" / "validation" / "square" / "0001.png")
inputs = data.processor(picture, return_tensors="pt")
with torch.no_grad():
    answer = CLASSES[int(student.eval()(**inputs).argmax())]
print(answer, weights)
