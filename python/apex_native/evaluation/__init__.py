"""What models can still do: the stage after quantization."""
