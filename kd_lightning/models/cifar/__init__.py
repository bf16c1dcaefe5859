"""Networks for images of CIFAR's size, as papers on distillation train them, under the same names of modules."""
