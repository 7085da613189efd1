# mypy: ignore-errors
# The functions below are Triton, which shares Python's syntax but not its types.
"""Norm affine, expand, GELU, compress and residual in one pass over memory, and the backward pass; channels first.

Per voxel, with the instance norm folded into a scale a and a shift b per sample and channel:

    t = a u + b      z = t w1 + b1      out = gelu(z) w2 + b2 + residual

The hidden z, R wide, lives in registers only; backward recomputes it. Backward accumulates, per sample, the sums over
voxels of u^T dz and of dz (u itself, not t): the gradients of w1 and b1 follow from them, and so do the two sums that
the norm's backward needs (`norms.backward`), so no other reduction over voxels is left.

With UPSAMPLED the grid is an up block's fine one, V = D H W. The first plane of each axis is padding: u is 0 there, the
output too, and the gradient that arrives there counts nowhere. The residual (the transposed 1x1x1 convolution) lands
on odd voxels. `skip` (the encoder's activation) is added everywhere.

With PROJECTED the grid is a down block's coarse one, and the residual the strided 1x1x1 convolution of the block's
input: each voxel's even one in the finer grid times a matrix.
"""

import triton
import triton.language as tl

# Phi(z) = 1/2 + tanh(z p(z^2)) / 2 with p fitted to the exact normal distribution: gelu is off by less than 3e-5. The
# GPU's own tanh adds at most |z| 2^-12, a sixteenth of half a bfloat16's step at 1; its unit works beside the others.
_P0 = tl.constexpr(0.797507884)
_P1 = tl.constexpr(0.0370056461)
_P2 = tl.constexpr(-0.000351516808)
_LARGEST = tl.constexpr(40.0)  # z^2 from which tanh is 1 and p would turn down
_HALF_LOG2E = tl.constexpr(0.7213475204444817)
_DENSITY = tl.constexpr(0.3989422804014327)


@triton.jit
def tanh(x):
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def normal_cdf(z):
    q = tl.minimum(z * z, _LARGEST)
    p = (_P2 * q + _P1) * q + _P0
    return 0.5 * tanh(z * p) + 0.5


@triton.jit
def normal_density(z):
    return tl.math.exp2(z * z * -_HALF_LOG2E) * _DENSITY


@triton.jit
def coordinates(v, H: tl.constexpr, W: tl.constexpr):
    return v // (H * W), (v // W) % H, v % W


@triton.jit
def load_voxels(pointer, v, V: tl.constexpr, BV: tl.constexpr):
    """A tile of BV voxels; beyond the last, zeros."""
    if V % BV == 0:
        value = tl.load(pointer)
    else:
        value = tl.load(pointer, mask=(v < V)[:, None], other=0.0)
    return value


@triton.jit
def store_voxels(pointer, value, v, V: tl.constexpr, BV: tl.constexpr):
    if V % BV == 0:
        tl.store(pointer, value.to(pointer.dtype.element_ty))
    else:
        tl.store(pointer, value.to(pointer.dtype.element_ty), mask=(v < V)[:, None])


@triton.jit
def load_gradient(
    pointer, v, V: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BV: tl.constexpr, UPSAMPLED: tl.constexpr
):
    """The gradient at the output, 0 on the front padding (by `where`: a mask along w would make the load scalar)."""
    value = load_voxels(pointer, v, V, BV)
    if UPSAMPLED:
        d, h, w = coordinates(v, H, W)
        value = tl.where(((d > 0) & (h > 0) & (w > 0))[:, None], value, 0.0).to(value.dtype)
    return value


@triton.jit
def forward_kernel(
    u,  # (n, CI, V)
    a,  # (n, CI) float32
    b,  # (n, CI) float32
    w1,  # (CI, R)
    b1,  # (R,) float32
    w2,  # (R, CO)
    b2,  # (CO,) float32
    residual,  # (n, CO, V), UPSAMPLED (n, CO, V / 8), PROJECTED (n, CI, 8 V); read if RESIDUAL
    project,  # (CI, CO), read if PROJECTED
    bias,  # (CO,) float32, of the residual; read if BIASED
    skip,  # (n, CO, V), read if SKIP
    out,  # (n, CO, V)
    V: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CI: tl.constexpr,
    CO: tl.constexpr,
    R: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    UPSAMPLED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PROJECTED: tl.constexpr,
    BIASED: tl.constexpr,
    SKIP: tl.constexpr,
):
    """Grid (ceil(V / BV), n)."""
    n = tl.program_id(1)
    v = tl.program_id(0) * BV + tl.arange(0, BV)
    ci = tl.arange(0, CI)
    co = tl.arange(0, CO)
    acc = tl.zeros((BV, CO), tl.float32)
    if PROJECTED:  # before anything else takes registers
        BC: tl.constexpr = min(BK, CI, 32)
        d, h, w = coordinates(v, H, W)
        even = residual + n * CI * 8 * V + ((d * 2 * H + h) * 2 * W + w) * 2
        for i in range(CI // BC):
            k = i * BC + tl.arange(0, BC)
            beside = load_voxels(even[:, None] + k[None, :] * (8 * V), v, V, BV)
            acc = tl.dot(beside, tl.load(project + k[:, None] * CO + co[None, :]), acc)
    scale = tl.load(a + n * CI + ci)[None, :]
    shift = tl.load(b + n * CI + ci)[None, :]
    uv = load_voxels(u + (n * CI + ci)[None, :] * V + v[:, None], v, V, BV)
    t = (uv.to(tl.float32) * scale + shift).to(uv.dtype)
    for i in range(R // BK):
        k = i * BK + tl.arange(0, BK)
        z = tl.dot(t, tl.load(w1 + ci[:, None] * R + k[None, :])) + tl.load(b1 + k)[None, :]
        hidden = (z * normal_cdf(z)).to(uv.dtype)
        acc = tl.dot(hidden, tl.load(w2 + k[:, None] * CO + co[None, :]), acc)
    acc += tl.load(b2 + co)[None, :]
    if BIASED:
        acc += tl.load(bias + co)[None, :]
    at = (n * CO + co)[None, :] * V + v[:, None]
    if UPSAMPLED:
        d, h, w = coordinates(v, H, W)
        if RESIDUAL:
            odd = (d % 2 == 1) & (h % 2 == 1) & (w % 2 == 1) & (v < V)
            coarse = ((d // 2) * (H // 2) + h // 2) * (W // 2) + w // 2
            beside = residual + (n * CO + co)[None, :] * (V // 8) + coarse[:, None]
            acc += tl.load(beside, mask=odd[:, None], other=0.0).to(tl.float32)
        acc = tl.where(((d > 0) & (h > 0) & (w > 0))[:, None], acc, 0.0)
    elif RESIDUAL and not PROJECTED:
        acc += load_voxels(residual + at, v, V, BV).to(tl.float32)
    if SKIP:
        acc += load_voxels(skip + at, v, V, BV).to(tl.float32)
    store_voxels(out + at, acc, v, V, BV)


@triton.jit
def backward_kernel(
    u,  # (n, CI, V)
    a,  # (n, CI) float32
    b,  # (n, CI) float32
    w1,  # (CI, R)
    b1,  # (R,) float32
    w2,  # (R, CO)
    g,  # (n, CO, V)
    dt,  # (n, CI, V)
    u_dz,  # (n, programs, CI, R) float32, as are the next three
    sum_dz,  # (n, programs, R)
    dw2,  # (n, programs, R, CO)
    db2,  # (n, programs, CO)
    V: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CI: tl.constexpr,
    CO: tl.constexpr,
    R: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    UPSAMPLED: tl.constexpr,
):
    """The whole backward in one pass; for small channel counts, as a program keeps (CI + CO) R sums in registers.

    Grid (programs, n); a program walks every programs-th tile of a sample.
    """
    program = tl.program_id(0)
    n = tl.program_id(1)
    programs = tl.num_programs(0)
    ci = tl.arange(0, CI)
    co = tl.arange(0, CO)
    k = tl.arange(0, BK)
    # Sums over voxels as products with ones: no exchange between warps inside the loop.
    ones = tl.full((16, BV), 1.0, g.dtype.element_ty)
    expand = ()
    compress = ()  # transposed
    sum_g = ()
    sum_s = ()
    sum_w2 = ()
    for i in tl.static_range(R // BK):
        expand = expand + (tl.load(w1 + ci[:, None] * R + (i * BK + k)[None, :]),)
        compress = compress + (tl.load(w2 + (i * BK + k)[None, :] * CO + co[:, None]),)
        sum_g = sum_g + (tl.zeros((CI, BK), tl.float32),)
        sum_s = sum_s + (tl.zeros((16, BK), tl.float32),)
        sum_w2 = sum_w2 + (tl.zeros((BK, CO), tl.float32),)
    sum_b2 = tl.zeros((16, CO), tl.float32)
    for tile in range(program, (V + BV - 1) // BV, programs):
        v = tile * BV + tl.arange(0, BV)
        uv = load_voxels(u + (n * CI + ci)[None, :] * V + v[:, None], v, V, BV)
        gv = load_gradient(g + (n * CO + co)[None, :] * V + v[:, None], v, V, H, W, BV, UPSAMPLED)
        # Read again for every tile: held in registers they make others spill.
        scale = tl.load(a + n * CI + ci)[None, :]
        shift = tl.load(b + n * CI + ci)[None, :]
        t = (uv.to(tl.float32) * scale + shift).to(uv.dtype)
        ut = tl.trans(uv)
        sum_b2 = tl.dot(ones, gv, sum_b2)
        acc = tl.zeros((BV, CI), tl.float32)
        new_g = ()
        new_s = ()
        new_w2 = ()
        for i in tl.static_range(R // BK):
            z = tl.dot(t, expand[i]) + tl.load(b1 + i * BK + k)[None, :]
            dh = tl.dot(gv, compress[i])
            cdf = normal_cdf(z)
            dz = (dh * (cdf + z * normal_density(z))).to(uv.dtype)
            hidden = (z * cdf).to(uv.dtype)
            acc = tl.dot(dz, tl.trans(expand[i]), acc)
            new_w2 = new_w2 + (tl.dot(tl.trans(hidden), gv, sum_w2[i]),)
            new_g = new_g + (tl.dot(ut, dz, sum_g[i]),)
            new_s = new_s + (tl.dot(ones, dz, sum_s[i]),)
        sum_g = new_g
        sum_s = new_s
        sum_w2 = new_w2
        store_voxels(dt + (n * CI + ci)[None, :] * V + v[:, None], acc, v, V, BV)
    row = n * programs + program
    first = (tl.arange(0, 16) == 0)[:, None]
    for i in tl.static_range(R // BK):
        tl.store(u_dz + (row * CI + ci)[:, None] * R + (i * BK + k)[None, :], sum_g[i])
        tl.store(dw2 + (row * R + i * BK + k)[:, None] * CO + co[None, :], sum_w2[i])
        tl.store(sum_dz + row * R + i * BK + k, tl.sum(tl.where(first, sum_s[i], 0.0), 0))
    tl.store(db2 + row * CO + co, tl.sum(tl.where(first, sum_b2, 0.0), 0))


@triton.jit
def weight_gradients_kernel(
    u,
    a,
    b,
    w1,
    b1,
    w2,
    g,
    u_dz,  # inputs and outputs as of `backward_kernel`
    sum_dz,
    dw2,
    V: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CI: tl.constexpr,
    CO: tl.constexpr,
    R: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    UPSAMPLED: tl.constexpr,
):
    """The sums alone (but db2), for more channels: a program owns BK hidden units. Grid (R / BK, programs, n)."""
    program = tl.program_id(1)
    n = tl.program_id(2)
    ci = tl.arange(0, CI)
    co = tl.arange(0, CO)
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    scale = tl.load(a + n * CI + ci)[None, :]
    shift = tl.load(b + n * CI + ci)[None, :]
    bias = tl.load(b1 + k)[None, :]
    expand = tl.load(w1 + ci[:, None] * R + k[None, :])
    compress = tl.load(w2 + k[None, :] * CO + co[:, None])
    sum_g = tl.zeros((CI, BK), tl.float32)
    sum_s = tl.zeros((BK,), tl.float32)
    sum_w2 = tl.zeros((BK, CO), tl.float32)
    for tile in range(program, (V + BV - 1) // BV, tl.num_programs(1)):
        v = tile * BV + tl.arange(0, BV)
        uv = load_voxels(u + (n * CI + ci)[None, :] * V + v[:, None], v, V, BV)
        gv = load_gradient(g + (n * CO + co)[None, :] * V + v[:, None], v, V, H, W, BV, UPSAMPLED)
        t = (uv.to(tl.float32) * scale + shift).to(uv.dtype)
        z = tl.dot(t, expand) + bias
        dh = tl.dot(gv, compress)
        cdf = normal_cdf(z)
        dz = dh * (cdf + z * normal_density(z))
        hidden = (z * cdf).to(uv.dtype)
        sum_w2 = tl.dot(tl.trans(hidden), gv, sum_w2)
        sum_g = tl.dot(tl.trans(uv), dz.to(uv.dtype), sum_g)
        sum_s += tl.sum(dz, 0)
    row = n * tl.num_programs(1) + program
    tl.store(u_dz + (row * CI + ci)[:, None] * R + k[None, :], sum_g)
    tl.store(dw2 + (row * R + k)[:, None] * CO + co[None, :], sum_w2)
    tl.store(sum_dz + row * R + k, sum_s)


@triton.jit
def input_gradient_kernel(
    u,  # as of `forward_kernel`
    a,
    b,
    w1,
    b1,
    w2,
    g,  # (n, CO, V)
    slope,  # (n, CI) float32
    level,  # (n, CI) float32
    du,  # (n, CI, V)
    V: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CI: tl.constexpr,
    CO: tl.constexpr,
    R: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    UPSAMPLED: tl.constexpr,
):
    """du = a dt + slope u + level, after `weight_gradients_kernel`; 0 on the front padding. Grid (ceil(V / BV), n)."""
    n = tl.program_id(1)
    v = tl.program_id(0) * BV + tl.arange(0, BV)
    ci = tl.arange(0, CI)
    co = tl.arange(0, CO)
    scale = tl.load(a + n * CI + ci)[None, :]
    shift = tl.load(b + n * CI + ci)[None, :]
    at = (n * CI + ci)[None, :] * V + v[:, None]
    uv = load_voxels(u + at, v, V, BV)
    gv = load_gradient(g + (n * CO + co)[None, :] * V + v[:, None], v, V, H, W, BV, UPSAMPLED)
    t = (uv.to(tl.float32) * scale + shift).to(uv.dtype)
    acc = tl.zeros((BV, CI), tl.float32)
    for i in range(R // BK):
        k = i * BK + tl.arange(0, BK)
        expand = tl.load(w1 + ci[:, None] * R + k[None, :])
        z = tl.dot(t, expand) + tl.load(b1 + k)[None, :]
        dh = tl.dot(gv, tl.load(w2 + k[None, :] * CO + co[:, None]))
        dz = (dh * (normal_cdf(z) + z * normal_density(z))).to(uv.dtype)
        acc = tl.dot(dz, tl.trans(expand), acc)
    acc = acc * scale + uv.to(tl.float32) * tl.load(slope + n * CI + ci)[None, :]
    acc += tl.load(level + n * CI + ci)[None, :]
    if UPSAMPLED:
        d, h, w = coordinates(v, H, W)
        acc = tl.where(((d > 0) & (h > 0) & (w > 0))[:, None], acc, 0.0)
    store_voxels(du + at, acc, v, V, BV)
