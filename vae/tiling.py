"""Large frames tile by tile: a network runs on overlapping tiles, and neighbours fade into each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

Place = tuple[int, int]  # (top, left) of a tile in cells of the whole
# (tile (b, c, t, h, w), its place) -> the tile's result (b, c', t', h scale, w scale)
TileNetwork = Callable[[torch.Tensor, Place], torch.Tensor]
# The same for chunk after chunk of a clip: (tile, its past or None) -> (result, its past for the next chunk)
CausalNetwork = Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]


@dataclass(frozen=True)
class Tiling:
    """Sizes in pixels. ValueError unless 0 < overlap < tile_size."""

    tile_size: int = 256  # height and width of a tile
    overlap: int = 64  # what neighbouring tiles share at least, and fade over

    def __post_init__(self) -> None:
        if not 0 < self.overlap < self.tile_size:
            raise ValueError(
                f"overlap must be above 0 and below tile_size, got {self.overlap} of {self.tile_size} pixels"
            )


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin on an axis: at steps of tile - overlap, the last one shifted inwards to end with the axis."""
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]


def tiled(network: TileNetwork, x: torch.Tensor, tile: int, overlap: int, scale: Fraction | int) -> torch.Tensor:
    """Apply a network tile by tile and blend linearly where tiles overlap; every tile has the full size.

    network: receives a tile of x and its (top, left), by which a causal network keeps the past of each tile apart;
        returns (b, c', t', h scale, w scale).
    x: (b, c, t, h, w). An axis no longer than `tile` is not cut: a small frame goes through in one call, unchanged.
    tile, overlap: cells of x; they and the sizes of x must be whole numbers also after multiplying by `scale`.
    Returns (b, c', t', h scale, w scale), each cell a convex combination of the tiles that hold it.
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return network(x, (0, 0))

    def row_of_tiles(top: int) -> torch.Tensor:
        row = x.narrow(3, top, min(tile, height))
        tiles = (
            (left, network(row.narrow(4, left, min(tile, width)), (top, left)))
            for left in tile_starts(width, tile, overlap)
        )
        return _fade(tiles, 4, int(width * scale), scale)  # (b, c', t', tile scale, w scale)

    rows = ((top, row_of_tiles(top)) for top in tile_starts(height, tile, overlap))
    return _fade(rows, 3, int(height * scale), scale)


def remembering(network: CausalNetwork, memory: dict[Place, Any]) -> TileNetwork:
    """A causal network for `tiled`: each tile meets the past that the chunk before left in `memory` at its place."""

    def run(tile: torch.Tensor, place: Place) -> torch.Tensor:
        result, memory[place] = network(tile, memory.get(place))
        return result

    return run


def _fade(pieces: Iterable[tuple[int, torch.Tensor]], axis: int, length: int, scale: Fraction | int) -> torch.Tensor:
    """Join (start, piece), in order, to `length` cells of an axis; what overlaps earlier pieces fades in over them."""
    joined, filled = torch.empty(0), 0  # one result that is written once: pieces are not kept
    for start, piece in pieces:
        if not filled:
            joined = piece.new_empty([*piece.shape[:axis], length, *piece.shape[axis + 1 :]])
        begin, size = int(start * scale), piece.shape[axis]
        shared = filled - begin
        if shared:
            shape = [shared if i == axis else 1 for i in range(piece.ndim)]
            weight = (torch.arange(shared, device=piece.device, dtype=piece.dtype) + 0.5) / shared
            joined.narrow(axis, begin, shared).lerp_(piece.narrow(axis, 0, shared), weight.reshape(shape))
        joined.narrow(axis, filled, size - shared).copy_(piece.narrow(axis, shared, size - shared))
        filled = begin + size
    return joined
