# mypy: ignore-errors
# The functions below are Triton, which shares Python's syntax but not its types.
"""Depthwise k x k x k correlation at stride 1 on tensor cores, and its kernel gradient; channels first.

The rows of a channel are cut along w into tiles of 8 outputs. Such a tile needs a window of 16 inputs, and one row of
taps acts on the window as a banded 16 x 8 matrix (`load_band`). 16 tiles ("slots") stand under each other as the
16 x 16 operand of one tensor-core product; every row of inputs is loaded once and meets k * k bands. A slot is a
tile of 8 along w, `BH` rows along h and `BD` planes along d; a program is one warp that walks its 16 slots along d with
a ring of k * BH accumulators. Extents that the tiles do not divide are masked.

Along each axis, output o and tap t meet input o + t + low, where low is -(k // 2) for 'same' extents, 0 where the
halo is already there ('valid') and -2 (k // 2) for the input gradient of the latter ('full').
"""

# Annotations stay objects here: Triton reads `tl.constexpr` from them.
import triton
import triton.language as tl


@triton.jit
def slot_origins(slot, D: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr):
    """First output (d, h, w) of each slot; a slot beyond the last has d >= D."""
    tiles: tl.constexpr = (W + 7) // 8
    blocks: tl.constexpr = (H + BH - 1) // BH
    w0 = (slot % tiles) * 8
    h0 = ((slot // tiles) % blocks) * BH
    d0 = (slot // (tiles * blocks)) * BD
    return d0, h0, w0


@triton.jit
def load_band(kernel, c, row, tap, C: tl.constexpr, K: tl.constexpr, FLIP: tl.constexpr):
    """The matrix whose element is tap `tap` (a tensor; 0 outside) of row `row` of channel c's K x K rows of taps."""
    known = (tap >= 0) & (tap < K)
    if FLIP:
        at = (K * K - 1 - row) * K + K - 1 - tap
    else:
        at = row * K + tap
    return tl.load(kernel + at * C + c, mask=known, other=0.0)


@triton.jit
def store_moments(moments, index, count, shift, total, squares):
    """Count, mean and sum of squared distances from it, of values whose sums about `shift` each element kept.

    About a value of the data itself, and merged from the elements' own means: a difference of two large sums of
    squares would lose the variance of a channel whose mean is far from 0.
    """
    some = tl.maximum(count, 1.0)
    mean = shift + total / some
    n = tl.sum(count)
    whole = tl.sum(tl.where(count > 0, mean * count, 0.0)) / n
    apart = mean - whole
    m2 = tl.sum(tl.where(count > 0, squares - total * total / some + count * apart * apart, 0.0))
    tl.store(moments + index * 3, n)
    tl.store(moments + index * 3 + 1, whole)
    tl.store(moments + index * 3 + 2, m2)


@triton.jit
def correlate_kernel(
    x,  # (n, C, DI, HI, WI)
    kernel,  # (K, K, K, C) float32
    bias,  # (C,) float32, read if not ADD
    extra,  # (n, C, DI, HI, WI), read if ADD
    y,  # (n, C, D, H, W)
    moments,  # (n, C, programs, 3) float32, written if not ADD
    C: tl.constexpr,
    K: tl.constexpr,
    DI: tl.constexpr,
    HI: tl.constexpr,
    WI: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    LD: tl.constexpr,  # `low` of each axis
    LH: tl.constexpr,
    LW: tl.constexpr,
    BD: tl.constexpr,
    BH: tl.constexpr,
    ADD: tl.constexpr,
    FLIP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """y = correlation + bias, with moments; or, with ADD, y = correlation + `extra` centred on the outputs.

    With FLIP the taps stand in reverse order along all axes. Grid (ceil(slots / 16), C, n).
    """
    P: tl.constexpr = K // 2
    WINDOW: tl.constexpr = (LW // 4) * 4  # the window starts where 8-byte loads can
    WHOLE: tl.constexpr = (W % 8 == 0) & (H % BH == 0) & (D % BD == 0) & (((W // 8) * (H // BH) * (D // BD)) % 16 == 0)
    CENTRED: tl.constexpr = (LD == -P) & (LH == -P) & (LW == -P)
    program = tl.program_id(0)
    c = tl.program_id(1)
    n = tl.program_id(2)
    d0, h0, w0 = slot_origins(program * 16 + tl.arange(0, 16), D, H, W, BD, BH)
    i = tl.arange(0, 16)
    o = tl.arange(0, 8)
    wi = w0[:, None] + WINDOW + i[None, :]
    in_row = (wi >= 0) & (wi < WI)
    window = x + (n * C + c) * (DI * HI * WI) + wi
    wo = w0[:, None] + o[None, :]
    out = y + (n * C + c) * (D * H * W) + h0[:, None] * W + wo
    beside = extra + (n * C + c) * (DI * HI * WI) + (h0[:, None] + (LH + P)) * WI + wo + (LW + P)
    in_extra = (wo + (LW + P) >= 0) & (wo + (LW + P) < WI)

    taps = ()
    for k in tl.static_range(K * K):
        band = load_band(kernel, c, k, i[:, None] - o[None, :] - (LW - WINDOW), C, K, FLIP)
        taps = taps + (band.to(x.dtype.element_ty),)
    # Ring entry r is row r % BH of the output plane whose next depth tap is K - 1 - r // BH: oldest planes first.
    ring = ()
    for _ in tl.static_range(K * BH):
        ring = ring + (tl.zeros((16, 8), tl.float32),)
    shift = tl.zeros((16, 8), tl.float32)
    total = tl.zeros((16, 8), tl.float32)
    squares = tl.zeros((16, 8), tl.float32)
    if not ADD:
        offset = tl.load(bias + c)

    for step in tl.range(0, BD + K - 1, num_stages=STAGES):
        d = d0 + step + LD
        in_plane = ((d >= 0) & (d < DI))[:, None] & in_row
        done = step - (K - 1)  # the slot's plane that this step completes
        if ADD:  # loaded early, used after the products
            de = d0 + done + (LD + P)
            rows = ()
            for b in tl.static_range(BH):
                if WHOLE & CENTRED:
                    known = (done >= 0) & (o >= 0)[None, :]
                else:
                    he = h0 + b + (LH + P)
                    known = ((done >= 0) & (de >= 0) & (de < DI) & (he >= 0) & (he < HI))[:, None] & in_extra
                rows = rows + (tl.load(beside + (de * (HI * WI))[:, None] + b * WI, mask=known, other=0.0),)
        for j in tl.static_range(BH + K - 1):
            h = h0 + j + LH
            row = tl.load(
                window + (d * (HI * WI) + h * WI)[:, None],
                mask=in_plane & ((h >= 0) & (h < HI))[:, None],
                other=0.0,
            )
            turned = ()
            for r in tl.static_range(K * BH):
                if r % BH <= j and j - r % BH < K:
                    turned = turned + (tl.dot(row, taps[(K - 1 - r // BH) * K + j - r % BH], ring[r]),)
                else:
                    turned = turned + (ring[r],)
            ring = turned
        if done >= 0:
            in_out = ((d0 + done) < D)[:, None] & (wo < W)
            for b in tl.static_range(BH):
                value = ring[b]
                ok = in_out & ((h0 + b) < H)[:, None]
                if ADD:
                    value += rows[b].to(tl.float32)
                else:
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
                    tl.store(pointer, value.to(y.dtype.element_ty))
                else:
                    tl.store(pointer, value.to(y.dtype.element_ty), mask=ok)
        turned = ()
        for r in tl.static_range((K - 1) * BH):
            turned = turned + (ring[r + BH],)
        for _ in tl.static_range(BH):
            turned = turned + (tl.zeros((16, 8), tl.float32),)
        ring = turned

    if not ADD:
        planes = tl.minimum(tl.maximum(D - d0, 0), BD)
        lines = tl.minimum(tl.maximum(H - h0, 0), BH)
        count = tl.where(wo < W, (planes * lines)[:, None], 0).to(tl.float32)
        store_moments(moments, (n * C + c) * tl.num_programs(0) + program, count, shift, total, squares)


@triton.jit
def kernel_gradient_kernel(
    x,  # (n, C, DI, HI, WI)
    g,  # (n, C, D, H, W)
    u,  # (n, C, D, H, W), read if FOLD
    scale,  # (n, C) float32, likewise, and the two below
    slope,
    level,
    du,  # (n, C, D, H, W), written if FOLD
    partial,  # (programs, C, K, K, 16, 8) float32, [.., kd, kh, i, o]
    N: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    DI: tl.constexpr,
    HI: tl.constexpr,
    WI: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    LD: tl.constexpr,
    LH: tl.constexpr,
    LW: tl.constexpr,
    BD: tl.constexpr,
    BH: tl.constexpr,
    ROWS: tl.constexpr,  # rows of taps along h that a program gathers; K, or fewer to save registers
    FOLD: tl.constexpr,
):
    """partial = sum over the slots of window^T x row of du, from which `bands.fold` takes the kernel's gradient.

    With FOLD, g is the gradient at the norm's output and du = scale g + slope u + level (the norm's backward) is formed
    here and written; else du is g. Grid (programs, C, ceil(K / ROWS)); a program walks every programs-th 16 slots.
    """
    WINDOW: tl.constexpr = (LW // 4) * 4
    SLOTS: tl.constexpr = ((W + 7) // 8) * ((H + BH - 1) // BH) * ((D + BD - 1) // BD)
    GROUPS: tl.constexpr = (SLOTS + 15) // 16
    WHOLE: tl.constexpr = (W % 8 == 0) & (H % BH == 0) & (D % BD == 0) & (SLOTS % 16 == 0)
    program = tl.program_id(0)
    c = tl.program_id(1)
    if ROWS >= K:
        kh0 = 0
    else:
        kh0 = tl.program_id(2) * ROWS
    i = tl.arange(0, 16)
    o = tl.arange(0, 8)
    sums = ()
    for _ in tl.static_range(K * ROWS):
        sums = sums + (tl.zeros((16, 8), tl.float32),)
    for group in range(program, N * GROUPS, tl.num_programs(0)):
        n = group // GROUPS
        d0, h0, w0 = slot_origins((group % GROUPS) * 16 + tl.arange(0, 16), D, H, W, BD, BH)
        wi = w0[:, None] + WINDOW + i[None, :]
        in_row = (wi >= 0) & (wi < WI)
        window = x + (n * C + c) * (DI * HI * WI) + wi
        wo = w0[:, None] + o[None, :]
        out = (n * C + c) * (D * H * W) + h0[:, None] * W + wo
        if FOLD:
            a = tl.load(scale + n * C + c)
            b = tl.load(slope + n * C + c)
            e = tl.load(level + n * C + c)
        # The last K - 1 planes of du, BH rows each, oldest first.
        held = ()
        for _ in tl.static_range((K - 1) * BH):
            held = held + (tl.zeros((16, 8), tl.float32).to(g.dtype.element_ty),)
        for step in tl.range(0, BD + K - 1):
            d = d0 + step + LD
            in_plane = ((d >= 0) & (d < DI))[:, None] & in_row
            new = step < BD
            if WHOLE:
                in_out = new & (o >= 0)[None, :]
            else:
                in_out = (new & ((d0 + step) < D))[:, None] & (wo < W)
            plane = out + ((d0 + step) * (H * W))[:, None]
            # Every load of the step goes out before the first use waits for one.
            rows = ()
            for j in tl.static_range(BH + ROWS - 1):
                h = h0 + kh0 + j + LH
                rows = rows + (
                    tl.load(
                        window + (d * (HI * WI) + h * WI)[:, None],
                        mask=in_plane & ((h >= 0) & (h < HI))[:, None],
                        other=0.0,
                    ),
                )
            gs = ()
            us = ()
            for r in tl.static_range(BH):
                if WHOLE:
                    ok = in_out
                else:
                    ok = in_out & ((h0 + r) < H)[:, None]
                gs = gs + (tl.load(g + plane + r * W, mask=ok, other=0.0),)
                if FOLD:
                    us = us + (tl.load(u + plane + r * W, mask=ok, other=0.0),)
            for r in tl.static_range(BH):
                value = gs[r]
                if FOLD:
                    if WHOLE:
                        ok = in_out
                    else:
                        ok = in_out & ((h0 + r) < H)[:, None]
                    value = tl.where(ok, value.to(tl.float32) * a + us[r].to(tl.float32) * b + e, 0.0)
                    value = value.to(g.dtype.element_ty)
                    if kh0 == 0:
                        tl.store(du + plane + r * W, value, mask=ok)
                held = held + (value,)
            # held's plane p met this step's input plane through depth tap K - 1 - p.
            for j in tl.static_range(BH + ROWS - 1):
                turned = tl.trans(rows[j])
                more = ()
                for k in tl.static_range(K * ROWS):  # depth tap k // ROWS, tap kh0 + k % ROWS along h
                    if j - k % ROWS >= 0 and j - k % ROWS < BH:
                        more = more + (tl.dot(turned, held[(K - 1 - k // ROWS) * BH + j - k % ROWS], sums[k]),)
                    else:
                        more = more + (sums[k],)
                sums = more
            kept = ()
            for k in tl.static_range((K - 1) * BH):
                kept = kept + (held[k + BH],)
            held = kept
    for k in tl.static_range(K * ROWS):
        kh = kh0 + k % ROWS
        index = ((program * C + c) * K + k // ROWS) * K + kh
        tl.store(partial + index * 128 + i[:, None] * 8 + o[None, :], sums[k], mask=(kh < K) & (o >= 0)[None, :])
