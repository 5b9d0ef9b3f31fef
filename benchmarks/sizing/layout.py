"""Layouts of published measurements: ours, and the degrees of parallelism that our trainer has not."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.sizing.layout import ParallelLayout


@dataclass(frozen=True, kw_only=True)
class PublishedLayout(ParallelLayout):
    """A layout with tensor, pipeline and expert parallelism; context parallelism is `sequence_parallel`.

    Attributes:
        tp: Tensor-parallel ranks.
        pp: Pipeline stages.
        ep: Expert-parallel ranks.
        virtual_stages: Interleaved pipeline stages of a rank.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    virtual_stages: int = 1
