"""Teachers that come as graphs: torch.export and ONNX to the nodes that edgekd.program runs."""
