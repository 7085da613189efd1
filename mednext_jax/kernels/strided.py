# mypy: ignore-errors
# The functions below are Triton, which shares Python's syntax but not its types.
"""Depthwise correlation at stride 2, its transpose, and their kernel gradient, on tensor cores; channels first.

Fine grids have twice the extents of coarse ones. With p = k // 2 and `OFFSET` 0 (down block) or 1 (up block):

    gather   coarse[i] = sum_t fine[2i + OFFSET + t - p] w[t]      down's forward, up's input gradient
    scatter  fine[2i + OFFSET + t - p] += coarse[i] w[t]            up's forward, down's input gradient

The scheme is that of `depthwise`: slots are tiles of 8 coarse voxels along w, BH coarse rows and BD coarse planes, and
a row of taps is a banded matrix, here 32 x 8 (gather) or 16 x 16 (scatter, both parities at once).

An up block's fine grid has padding in front, the first plane of each axis: scatter writes 0 there and keeps it out of
the moments, and gather relies on the gradient being 0 there.
"""

import triton
import triton.language as tl

from mednext_jax.kernels.depthwise import load_band, slot_origins, store_moments


@triton.jit
def gather_kernel(
    fine,  # (n, C, 2 D, 2 H, 2 W)
    kernel,  # (K, K, K, C) float32
    bias,  # (C,) float32, read if FORWARD
    coarse,  # (n, C, D, H, W)
    moments,  # (n, C, programs, 3) float32, written if FORWARD
    C: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    OFFSET: tl.constexpr,
    BD: tl.constexpr,
    BH: tl.constexpr,
    FORWARD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Grid (ceil(slots / 16), C, n)."""
    P: tl.constexpr = K // 2
    # Fine planes 2m + OFFSET and the next meet the coarse planes m - BEHIND .. m + AHEAD.
    BEHIND: tl.constexpr = P // 2
    AHEAD: tl.constexpr = (P + 1) // 2
    PLANES: tl.constexpr = BEHIND + AHEAD + 1
    WHOLE: tl.constexpr = (W % 8 == 0) & (H % BH == 0) & (D % BD == 0) & (((W // 8) * (H // BH) * (D // BD)) % 16 == 0)
    program = tl.program_id(0)
    c = tl.program_id(1)
    n = tl.program_id(2)
    d0, h0, w0 = slot_origins(program * 16 + tl.arange(0, 16), D, H, W, BD, BH)
    i = tl.arange(0, 32)
    o = tl.arange(0, 8)
    wi = 2 * w0[:, None] - 4 + i[None, :]
    in_row = (wi >= 0) & (wi < 2 * W)
    window = fine + (n * C + c) * (8 * D * H * W) + wi
    wo = w0[:, None] + o[None, :]
    out = coarse + (n * C + c) * (D * H * W) + h0[:, None] * W + wo
    taps = ()
    for k in tl.static_range(K * K):
        band = load_band(kernel, c, k, i[:, None] - 2 * o[None, :] - (OFFSET - P + 4), C, K, False)
        taps = taps + (band.to(fine.dtype.element_ty),)
    # Ring entry r is row r % BH of coarse plane m - BEHIND + r // BH.
    ring = ()
    for _ in tl.static_range(PLANES * BH):
        ring = ring + (tl.zeros((16, 8), tl.float32),)
    shift = tl.zeros((16, 8), tl.float32)
    total = tl.zeros((16, 8), tl.float32)
    squares = tl.zeros((16, 8), tl.float32)
    if FORWARD:
        offset = tl.load(bias + c)

    for step in tl.range(0, BD + BEHIND + AHEAD, num_stages=STAGES):
        m = d0 - AHEAD + step
        for q in tl.static_range(2):
            d = 2 * m + q + OFFSET
            in_plane = ((d >= 0) & (d < 2 * D))[:, None] & in_row
            for j in tl.static_range(2 * BH + K - 2):
                h = 2 * h0 + j - P + OFFSET
                row = tl.load(
                    window + (d * (4 * H * W) + h * (2 * W))[:, None],
                    mask=in_plane & ((h >= 0) & (h < 2 * H))[:, None],
                    other=0.0,
                )
                turned = ()
                for r in tl.static_range(PLANES * BH):
                    # Depth tap q + 2 (BEHIND - r // BH) + P, tap j - 2 (r % BH) along h.
                    if (
                        j - 2 * (r % BH) >= 0
                        and j - 2 * (r % BH) < K
                        and q + 2 * (BEHIND - r // BH) + P >= 0
                        and q + 2 * (BEHIND - r // BH) + P < K
                    ):
                        turned = turned + (
                            tl.dot(row, taps[(q + 2 * (BEHIND - r // BH) + P) * K + j - 2 * (r % BH)], ring[r]),
                        )
                    else:
                        turned = turned + (ring[r],)
                ring = turned
        done = step - AHEAD - BEHIND
        if done >= 0:
            in_out = ((d0 + done) < D)[:, None] & (wo < W)
            for b in tl.static_range(BH):
                value = ring[b]
                ok = in_out & ((h0 + b) < H)[:, None]
                if FORWARD:
                    value += offset
                    if b == 0:
                        shift = tl.where(done == 0, value, shift)
                    apart = value - shift
                    if not WHOLE:
                        apart = tl.where(ok, apart, 0.0)
                    total += apart
                    squares += apart * apart
                pointer = out + ((d0 + done) * (H * W))[:, None] + b * W
                if WHOLE:
                    tl.store(pointer, value.to(coarse.dtype.element_ty))
                else:
                    tl.store(pointer, value.to(coarse.dtype.element_ty), mask=ok)
        turned = ()
        for r in tl.static_range((PLANES - 1) * BH):
            turned = turned + (ring[r + BH],)
        for _ in tl.static_range(BH):
            turned = turned + (tl.zeros((16, 8), tl.float32),)
        ring = turned

    if FORWARD:
        planes = tl.minimum(tl.maximum(D - d0, 0), BD)
        lines = tl.minimum(tl.maximum(H - h0, 0), BH)
        count = tl.where(wo < W, (planes * lines)[:, None], 0).to(tl.float32)
        store_moments(moments, (n * C + c) * tl.num_programs(0) + program, count, shift, total, squares)


@triton.jit
def scatter_kernel(
    coarse,  # (n, C, D, H, W)
    kernel,  # (K, K, K, C) float32
    bias,  # (C,) float32, read if FORWARD
    extra,  # (n, C, D, H, W), read if ADD
    fine,  # (n, C, 2 D, 2 H, 2 W)
    moments,  # (n, C, programs, 3) float32, written if FORWARD
    C: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    OFFSET: tl.constexpr,
    BD: tl.constexpr,
    BH: tl.constexpr,
    FORWARD: tl.constexpr,
    ADD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """FORWARD: the front padding is 0. ADD: `extra` is added on even voxels. Grid (ceil(slots / 16), C, n)."""
    P: tl.constexpr = K // 2
    # Coarse plane m meets the pairs of fine planes (2j, 2j + 1) with j from m - BEHIND to m + AHEAD.
    BEHIND: tl.constexpr = (P - OFFSET + 1) // 2
    AHEAD: tl.constexpr = (P + OFFSET) // 2
    PLANES: tl.constexpr = 2 * (BEHIND + AHEAD + 1)
    ROWS: tl.constexpr = 2 * BH
    WHOLE: tl.constexpr = (W % 8 == 0) & (H % BH == 0) & (D % BD == 0) & (((W // 8) * (H // BH) * (D // BD)) % 16 == 0)
    program = tl.program_id(0)
    c = tl.program_id(1)
    n = tl.program_id(2)
    d0, h0, w0 = slot_origins(program * 16 + tl.arange(0, 16), D, H, W, BD, BH)
    i = tl.arange(0, 16)
    wi = w0[:, None] - 4 + i[None, :]
    in_row = (wi >= 0) & (wi < W)
    window = coarse + (n * C + c) * (D * H * W) + wi
    wo = 2 * w0[:, None] + i[None, :]
    out = fine + (n * C + c) * (8 * D * H * W) + h0[:, None] * (4 * W) + wo
    taps = ()
    for k in tl.static_range(K * K):
        band = load_band(kernel, c, k, i[None, :] - 2 * (i[:, None] - 4) - (OFFSET - P), C, K, False)
        taps = taps + (band.to(coarse.dtype.element_ty),)
    # Ring entry r is row r % ROWS of fine plane 2 (m - BEHIND) + r // ROWS.
    ring = ()
    for _ in tl.static_range(PLANES * ROWS):
        ring = ring + (tl.zeros((16, 16), tl.float32),)
    shift = tl.zeros((16, 16), tl.float32)
    total = tl.zeros((16, 16), tl.float32)
    squares = tl.zeros((16, 16), tl.float32)
    if FORWARD:
        offset = tl.load(bias + c)

    for step in tl.range(0, BD + BEHIND + AHEAD, num_stages=STAGES):
        m = d0 - AHEAD + step
        in_plane = ((m >= 0) & (m < D))[:, None] & in_row
        done = step - AHEAD - BEHIND
        if ADD:  # loaded early, used after the products
            known = ((done >= 0) & ((d0 + done) < D))[:, None] & (i[None, :] % 2 == 0) & (wo < 2 * W)
            rows = ()
            for b in tl.static_range(BH):
                beside = extra + (n * C + c) * (D * H * W) + ((d0 + done) * (H * W) + (h0 + b) * W)[:, None] + wo // 2
                rows = rows + (tl.load(beside, mask=known & ((h0 + b) < H)[:, None], other=0.0),)
        for j in tl.static_range(BH + BEHIND + AHEAD):
            h = h0 + j - AHEAD
            row = tl.load(
                window + (m * (H * W) + h * W)[:, None],
                mask=in_plane & ((h >= 0) & (h < H))[:, None],
                other=0.0,
            )
            turned = ()
            for r in tl.static_range(PLANES * ROWS):
                # Depth tap r // ROWS - 2 BEHIND - OFFSET + P, tap r % ROWS - 2 (j - AHEAD) - OFFSET + P along h.
                if (
                    r // ROWS - 2 * BEHIND - OFFSET + P >= 0
                    and r // ROWS - 2 * BEHIND - OFFSET + P < K
                    and r % ROWS - 2 * (j - AHEAD) - OFFSET + P >= 0
                    and r % ROWS - 2 * (j - AHEAD) - OFFSET + P < K
                ):
                    turned = turned + (
                        tl.dot(
                            row,
                            taps[(r // ROWS - 2 * BEHIND - OFFSET + P) * K + r % ROWS - 2 * (j - AHEAD) - OFFSET + P],
                            ring[r],
                        ),
                    )
                else:
                    turned = turned + (ring[r],)
            ring = turned
        if done >= 0:
            for r in tl.static_range(2 * ROWS):
                value = ring[r]
                if ADD and r < ROWS and r % 2 == 0:
                    value += rows[r // 2].to(tl.float32)
                d = 2 * (d0 + done) + r // ROWS
                h = 2 * h0 + r % ROWS
                in_out = ((d < 2 * D) & (h < 2 * H))[:, None] & (wo < 2 * W)
                if FORWARD:
                    ok = in_out & ((d > 0) & (h > 0))[:, None] & (wo > 0)
                    value = tl.where(ok, value + offset, 0.0)
                    # The last row of the pair: the first that is never padding but along w.
                    if r == 0:
                        shift = tl.where(done == 0, ring[2 * ROWS - 1] + offset, shift)
                    apart = tl.where(ok, value - shift, 0.0)
                    total += apart
                    squares += apart * apart
                pointer = out + (d * (4 * H * W))[:, None] + (r % ROWS) * (2 * W)
                if WHOLE:
                    tl.store(pointer, value.to(fine.dtype.element_ty))
                else:
                    tl.store(pointer, value.to(fine.dtype.element_ty), mask=in_out)
        turned = ()
        for r in tl.static_range((PLANES - 2) * ROWS):
            turned = turned + (ring[r + 2 * ROWS],)
        for _ in tl.static_range(2 * ROWS):
            turned = turned + (tl.zeros((16, 16), tl.float32),)
        ring = turned

    if FORWARD:
        planes = tl.maximum(tl.minimum(2 * (d0 + BD), 2 * D) - tl.maximum(2 * d0, 1), 0)
        lines = tl.maximum(tl.minimum(2 * (h0 + BH), 2 * H) - tl.maximum(2 * h0, 1), 0)
        count = tl.where((wo > 0) & (wo < 2 * W), (planes * lines)[:, None], 0).to(tl.float32)
        store_moments(moments, (n * C + c) * tl.num_programs(0) + program, count, shift, total, squares)


@triton.jit
def gather_gradient_kernel(
    fine,  # (n, C, 2 D, 2 H, 2 W)
    coarse,  # (n, C, D, H, W)
    partial,  # (programs, C, K, K, 32, 8) float32, [.., kd, kh, i, o]
    N: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    OFFSET: tl.constexpr,
    BD: tl.constexpr,
    BH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """partial = sum over the slots of fine window^T x coarse row: the kernel's gradient of gather and of scatter.

    One row of taps along h per program. Grid (programs, C, K).
    """
    P: tl.constexpr = K // 2
    BEHIND: tl.constexpr = P // 2
    AHEAD: tl.constexpr = (P + 1) // 2
    PLANES: tl.constexpr = BEHIND + AHEAD + 1
    SLOTS: tl.constexpr = ((W + 7) // 8) * ((H + BH - 1) // BH) * ((D + BD - 1) // BD)
    GROUPS: tl.constexpr = (SLOTS + 15) // 16
    WHOLE: tl.constexpr = (W % 8 == 0) & (H % BH == 0) & (D % BD == 0) & (SLOTS % 16 == 0)
    program = tl.program_id(0)
    c = tl.program_id(1)
    kh = tl.program_id(2)
    i = tl.arange(0, 32)
    o = tl.arange(0, 8)
    sums = ()
    for _ in tl.static_range(K):
        sums = sums + (tl.zeros((32, 8), tl.float32),)
    for group in range(program, N * GROUPS, tl.num_programs(0)):
        n = group // GROUPS
        d0, h0, w0 = slot_origins((group % GROUPS) * 16 + tl.arange(0, 16), D, H, W, BD, BH)
        wi = 2 * w0[:, None] - 4 + i[None, :]
        in_row = (wi >= 0) & (wi < 2 * W)
        window = fine + (n * C + c) * (8 * D * H * W) + wi
        wo = w0[:, None] + o[None, :]
        out = coarse + (n * C + c) * (D * H * W) + h0[:, None] * W + wo
        # Coarse planes m - BEHIND .. m + AHEAD - 1, BH rows each.
        held = ()
        for _ in tl.static_range((PLANES - 1) * BH):
            held = held + (tl.zeros((16, 8), tl.float32).to(coarse.dtype.element_ty),)
        for step in tl.range(0, BD + BEHIND + AHEAD, num_stages=STAGES):
            m = d0 - AHEAD + step
            rows = ()
            for q in tl.static_range(2):
                d = 2 * m + q + OFFSET
                in_plane = ((d >= 0) & (d < 2 * D))[:, None] & in_row
                for r in tl.static_range(BH):
                    h = 2 * (h0 + r) + kh - P + OFFSET
                    rows = rows + (
                        tl.load(
                            window + (d * (4 * H * W) + h * (2 * W))[:, None],
                            mask=in_plane & ((h >= 0) & (h < 2 * H))[:, None],
                            other=0.0,
                        ),
                    )
            for r in tl.static_range(BH):  # the newest coarse plane, m + AHEAD
                if WHOLE:
                    ok = (step < BD) & (o >= 0)[None, :]
                else:
                    ok = ((step < BD) & ((d0 + step) < D) & ((h0 + r) < H))[:, None] & (wo < W)
                held = held + (tl.load(out + ((d0 + step) * (H * W))[:, None] + r * W, mask=ok, other=0.0),)
            for j in tl.static_range(2 * BH):
                turned = tl.trans(rows[j])
                more = ()
                for kd in tl.static_range(K):
                    # Fine plane 2m + j // BH + OFFSET meets coarse plane m - BEHIND + (..) / 2 through depth tap kd.
                    if (
                        (j // BH + 2 * BEHIND + P - kd) % 2 == 0
                        and j // BH + 2 * BEHIND + P - kd >= 0
                        and j // BH + 2 * BEHIND + P - kd < 2 * PLANES
                    ):
                        more = more + (
                            tl.dot(turned, held[((j // BH + 2 * BEHIND + P - kd) // 2) * BH + j % BH], sums[kd]),
                        )
                    else:
                        more = more + (sums[kd],)
                sums = more
            kept = ()
            for k in tl.static_range((PLANES - 1) * BH):
                kept = kept + (held[k + BH],)
            held = kept
    for kd in tl.static_range(K):
        index = ((program * C + c) * K + kd) * K + kh
        tl.store(partial + index * 256 + i[:, None] * 8 + o[None, :], sums[kd])
