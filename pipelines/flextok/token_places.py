"""Which patch of the picture each token starts at, and weights that begin so.

The first tokens are free, all others take the patches in turn, round after round. Training may move them.
"""

import torch

from pipelines.flextok.transformer_flextok import LEARNED_STD, FlexTokDecoderModel, FlexTokEncoderModel
from pipelines.storybook.latents import GRID

FREE = 16  # tokens without a place


def place_order() -> list[int]:
    """The places row by row in the order in which a round of tokens takes them."""
    return [row * GRID + column for row, column in scattered_places(GRID * GRID)]


def token_rounds(count: int) -> int:
    """Rounds over the places that so many tokens begin."""
    return -(-max(count - FREE, 0) // GRID**2)


def token_cells(count: int) -> list[tuple[int, int] | None]:
    """Cell (row, column) of each token; None for free ones."""
    return [None] * min(FREE, count) + scattered_places(max(count - FREE, 0))


def token_marks(count: int) -> list[int]:
    """Of free tokens their number, of all others that of their round over the places."""
    return [i if i < FREE else (i - FREE) // GRID**2 for i in range(count)]


def scattered_places(count: int) -> list[tuple[int, int]]:
    """Cells (row, column) of the grid, any first n of them spread evenly; then all over again."""
    bits = (GRID * GRID).bit_length() - 1
    out = []
    for index in range(count):
        turned = int(f"{index % (GRID * GRID):0{bits}b}"[::-1], 2)
        row = sum(((turned >> (2 * bit + 1)) & 1) << bit for bit in range(bits // 2))
        column = sum(((turned >> (2 * bit)) & 1) << bit for bit in range(bits // 2))
        out.append((row, column))
    return out


@torch.no_grad()
def start_at_places(encoder: FlexTokEncoderModel, decoder: FlexTokDecoderModel) -> None:
    """Give every token something of its own to look at, or all of them learn the same.

    Free tokens start as random vectors, all others as the positions of patches, near and far ones in turn,
    with a mark for each round over the places. Keys start as queries do, so that what lies at one place finds
    each other. In the decoder's first block each head finds the token of one round at a patch's place, in
    its second each head finds a part of the free tokens: otherwise the rounds of a place reach a patch as
    one sum, and the decoder takes very long to tell them apart.
    """
    for trunk in (encoder.module_dict["enc_transformer"], decoder.module_dict["dec_transformer"]):
        for block in trunk.blocks:
            block.attn.wk.weight.copy_(block.attn.wq.weight)
    registers = encoder.module_dict["enc_register_module"].registers  # [256, dim]
    patches, count = encoder.module_dict["enc_posemb_module"], len(registers)
    marks = orthonormal(max(token_rounds(count), 1), registers.shape[1]) * registers.shape[1] ** 0.5
    starts = torch.randn_like(registers) * LEARNED_STD
    for index, (cell, mark) in enumerate(zip(token_cells(count), token_marks(count), strict=True)):
        if cell is not None:
            starts[index] = patches.table((GRID, GRID))[0, :, *cell] + LEARNED_STD * marks[mark]
    registers.copy_(starts + 0.1 * torch.randn_like(starts))
    _start_decoder(decoder)


def _start_decoder(decoder: FlexTokDecoderModel) -> None:
    parts, most = decoder.module_dict, decoder.config.num_registers
    width, size = decoder.config.dim, decoder.config.head_dim
    heads, loud = width // size, width**0.5 * LEARNED_STD  # length of a mark
    marks = orthonormal(2 * heads + 1, width)
    rounds, groups, patch_mark = marks[:heads], marks[heads:-1], marks[-1]
    table = parts["dec_patches_posemb_module"].posembs  # [2, 1, width, 8]
    away = torch.eye(width) - marks.T @ marks  # what tells places is at right angles to what marks rounds
    table.copy_(torch.einsum("ij,abjk->abik", away, table))
    spanned = torch.linalg.qr(table.movedim(2, 0).flatten(1)).Q.T  # [16, width]
    places = parts["dec_patches_posemb_module"].table((GRID, GRID))[0]
    told = 0.1 * torch.randn(most, width)
    for index, (cell, mark) in enumerate(zip(token_cells(most), token_marks(most), strict=True)):
        if cell is None:
            told[index] += loud * groups[mark % heads] + LEARNED_STD * (away @ torch.randn(width))
        else:
            told[index] += loud * rounds[mark % heads] + places[:, *cell]
    parts["dec_registers_posemb_module"].posembs.copy_(told.T)
    table[0] += loud * patch_mark[:, None]
    blocks = parts["dec_transformer"].blocks
    for block, sought, by_place in zip(blocks, (rounds, groups), (1.0, 0.3), strict=False):
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            same_place = by_place * torch.randn(size, len(spanned)) @ spanned * size**-0.5
            same_mark = orthonormal(1, size)[0]
            others = (sought.sum(0) - sought[head]) / max(heads - 1, 1)
            block.attn.wq.weight[rows] = 0.4 * (same_place + torch.outer(same_mark, patch_mark))
            block.attn.wk.weight[rows] = 0.4 * (same_place + torch.outer(same_mark, sought[head] - others))


def orthonormal(count: int, width: int) -> torch.Tensor:
    """`[count, width]` random vectors of length 1 at right angles."""
    return torch.linalg.qr(torch.randn(width, count)).Q.T.contiguous()
