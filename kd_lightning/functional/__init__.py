"""The mathematics of the losses: pure functions of tensors."""
