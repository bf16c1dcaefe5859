# %% [markdown]
# # A sweep, and what to read from it
#
# The command runs every combination of the values that are separated by commas, and ends with one table. Here: two
# temperatures, with and without matching hidden states, on the made-up language of the quickstart, with few steps, so
# that it runs in less than a minute on a CPU. The models learn little in so few steps: the figures show the mechanics
# and no result.

# %%
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Run it
#
# `-m` makes it a sweep. All four jobs need the same teacher: it is fine-tuned once, and found by its fingerprint. In a
# shell this is
#
# ```
# kd-train -m temperature=1,4 match=[],[hidden_mse] baseline=false trainer.limit_train_batches=20 hydra.sweep.dir=FOLDER
# ```

# %%
typed = ["temperature=1,4", "match=[],[hidden_mse]", "baseline=false"]
short = ["trainer.max_epochs=1", "teacher.trainer.max_epochs=1", "trainer.limit_train_batches=20"]
command = [sys.executable, "-c", "from kd_lightning.cli.train import main; main()", "-m", *typed, *short]
done = subprocess.run([*command, f"hydra.sweep.dir={folder}"], cwd=folder, text=True, capture_output=True, check=False)
assert done.returncode == 0, done.stderr
print(done.stdout[-1500:])

# %% [markdown]
# ## The table
#
# `sweep.csv` has a row per job: what was varied, whether it finished, the scores, and the seconds of each stage.
# `sweep.md` is the same for a README, `sweep.png` a picture.

# %%
with (folder / "sweep.csv").open() as file:
    rows = list(csv.DictReader(file))
for row in rows:
    print(row["job"], row["status"], row["temperature"], row["match"], row["student/accuracy"], row["seconds/teacher"])
assert len(rows) == 4
assert {row["status"] for row in rows} == {"ok"}
assert sum(float(row["seconds/teacher"]) > 0 for row in rows) <= 1, "the teacher was fine-tuned once"

# %% [markdown]
# ## A job
#
# Each job has a run's folder with its configuration, scores, curves and student.

# %%
best = next(row for row in rows if row["best"])
metrics = json.loads((folder / best["job"] / "metrics.json").read_text())
print(sorted(path.name for path in (folder / best["job"]).iterdir() if not path.name.startswith(".")))
print(metrics["config"]["temperature"], metrics["student"])

# %% [markdown]
# ## A picture of your own

# %%
names = [f"T={row['temperature']}\n{row['match']}" for row in rows]
plt.figure(figsize=(5, 2.5))
plt.bar(names, [float(row["student/accuracy"]) for row in rows])
plt.axhline(metrics["teacher"]["metrics"]["accuracy"], color="black", linestyle=":", label="teacher")
plt.ylabel("accuracy")
plt.legend()
plt.savefig(folder / "accuracy.png", bbox_inches="tight")
