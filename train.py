"""`python train.py experiment=…`: the same as the installed command `kd-train`."""

from kd_lightning.cli.train import main

if __name__ == "__main__":
    main()
