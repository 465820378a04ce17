"""Integer versions of Linear and Embedding."""

from __future__ import annotations

from torch import Tensor, nn

from asrcompress.modules.weight import IntegerWeight, as_bias, check_activations


class IntegerLinear(nn.Module):
    """y = x W^T + b with packed W (out, in); see IntegerWeight for `activations`."""

    def __init__(self, weight: IntegerWeight, bias: Tensor | None, *, activations: str = "none") -> None:
        super().__init__()
        self.packed = weight
        self.bias = as_bias(bias)
        self.activations = check_activations(activations)
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        out = self.packed.product(x, self.activations)
        return out if self.bias is None else out + self.bias


class IntegerEmbedding(nn.Module):
    """A table of packed rows: a lookup and one scale; it multiplies no matrices."""

    def __init__(self, weight: IntegerWeight, *, padding_idx: int | None) -> None:
        super().__init__()
        self.packed = weight
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = padding_idx

    def forward(self, index: Tensor) -> Tensor:
        """index (...) int -> (..., embedding_dim) float."""
        return self.packed.rows(index)
