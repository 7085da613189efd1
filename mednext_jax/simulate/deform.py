"""A subject's own head: grid, position, size and a smooth deformation of the template."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

_NODE_MM = 8.0  # spacing of the displacement field's nodes
_SMOOTHNESS_MM = 24.0  # standard deviation of its Gaussian correlation
_SHIFT_MM = 3.0  # standard deviation of the displacement along each axis


@dataclasses.dataclass(frozen=True)
class VoxelGrid:
    """A box of voxels along the scanner's axes: voxel index * spacing + origin = position in mm (x, y, z)."""

    shape: tuple[int, ...]  # voxels along x, y, z
    spacing: np.ndarray  # (3,) mm
    origin: np.ndarray  # (3,) mm, centre of voxel (0, 0, 0)

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel to mm."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = self.origin
        return affine

    def refined(self, factor: np.ndarray) -> VoxelGrid:
        """The grid with each voxel cut into `factor` (3,) parts along each axis."""
        spacing = self.spacing / factor
        shape = tuple(int(n) for n in self.shape * factor)
        return VoxelGrid(shape, spacing, self.origin - (self.spacing - spacing) / 2)

    def cropped(self, box: tuple[slice, ...]) -> VoxelGrid:
        start = np.array([s.start for s in box])
        return VoxelGrid(tuple(s.stop - s.start for s in box), self.spacing, self.origin + start * self.spacing)

    def voxels(self, positions: np.ndarray) -> np.ndarray:
        """Nearest voxel index, int (..., 3), of positions (..., 3) in mm; may lie outside the box."""
        return np.rint((positions - self.origin) / self.spacing).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Deformation:
    """Subject position in mm -> template voxel: `matrix @ (x + displacement(x)) + offset`."""

    matrix: np.ndarray  # (3, 3)
    offset: np.ndarray  # (3,) template voxels
    nodes: VoxelGrid
    displacement: np.ndarray  # (3, nodes) float32, mm

    def box(self, brain: np.ndarray, spacing: np.ndarray, margin_mm: float) -> VoxelGrid:
        """A grid of `spacing` mm that holds the deformed `brain` (template mask) with at least the margin around."""
        points = np.argwhere(brain[::3, ::3, ::3] > 0.5) * 3
        affine_only = (points - self.offset) @ np.linalg.inv(self.matrix).T
        positions = affine_only - self._displacement_at(affine_only)
        # Every third voxel was looked at, and one step of the inversion is true to about 2 mm.
        reach = margin_mm + 6
        low, high = positions.min(0) - reach, positions.max(0) + reach
        shape = tuple(int(n) for n in np.ceil((high - low) / spacing) + 1)
        return VoxelGrid(shape, spacing, low)

    def sample(
        self, volume: np.ndarray, grid: VoxelGrid, order: int = 1, where: np.ndarray | None = None
    ) -> np.ndarray:
        """`volume` (template voxels) seen on `grid`; 0 outside it and outside the mask `where` (grid's shape).

        Works plane by plane, so that the coordinates of a fine grid never exist all at once.
        """
        field = self._field_on(grid)
        y, z = (grid.origin[a] + grid.spacing[a] * np.arange(grid.shape[a]) for a in (1, 2))
        plane_yz = (
            self.matrix[:, 1, None, None] * y[:, None] + self.matrix[:, 2, None, None] * z + self.offset[:, None, None]
        ).astype(np.float32)
        plane_yz, field = plane_yz.reshape(3, -1), field.reshape(3, field.shape[1], -1)
        everywhere = np.arange(plane_yz.shape[1])
        result = np.zeros(grid.shape, volume.dtype)
        matrix = self.matrix.astype(np.float32)
        for i in range(grid.shape[0]):
            inside = everywhere if where is None else np.flatnonzero(where[i])
            x = grid.origin[0] + grid.spacing[0] * i
            node, share = divmod((x - self.nodes.origin[0]) / _NODE_MM, 1)
            low, high = (field[:, int(node) + k].take(inside, axis=1) for k in (0, 1))
            shift = low + np.float32(share) * (high - low)  # (3, points) mm
            base = plane_yz.take(inside, axis=1)
            points = [
                base[a]
                + np.float32(self.matrix[a, 0] * x)
                + matrix[a, 0] * shift[0]
                + matrix[a, 1] * shift[1]
                + matrix[a, 2] * shift[2]
                for a in range(3)
            ]
            result[i].reshape(-1)[inside] = ndimage.map_coordinates(
                volume, points, order=order, output=volume.dtype, prefilter=False, mode="constant"
            )
        return result

    def to_template(self, positions: np.ndarray) -> np.ndarray:
        """Template voxel coordinates of positions (n, 3) in mm."""
        return (positions + self._displacement_at(positions)) @ self.matrix.T + self.offset

    def directions(self, offsets: np.ndarray) -> np.ndarray:
        """Unit vectors (n, 3) in the subject of template directions (n, 3); the deformation's own turn is left out."""
        turned = offsets @ np.linalg.inv(self.matrix).T
        return turned / np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-6)

    def _displacement_at(self, positions: np.ndarray) -> np.ndarray:
        at = ((positions - self.nodes.origin) / _NODE_MM).T
        return np.stack([ndimage.map_coordinates(d, at, order=1, mode="nearest") for d in self.displacement], 1)

    def _field_on(self, grid: VoxelGrid) -> np.ndarray:
        """The displacement interpolated along y and z: (3, nodes x, grid y, grid z) float32."""
        field = self.displacement
        for axis in (1, 2):
            at = (grid.origin[axis] + grid.spacing[axis] * np.arange(grid.shape[axis])) - self.nodes.origin[axis]
            node, share = np.divmod(at / _NODE_MM, 1)
            low = np.take(field, node.astype(int), axis=axis + 1)
            high = np.take(field, node.astype(int) + 1, axis=axis + 1)
            share = share.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(-1, 3)])
            field = low + share * (high - low)
        return field


def draw_deformation(rng: np.random.Generator, template_shape: tuple[int, ...]) -> Deformation:
    """A random head: turned up to 15 degrees, 0.9 to 1.1 times the size along each axis, smoothly bent by 3 mm."""
    turn = Rotation.from_euler("xyz", rng.uniform(-15, 15, 3) * [1, 0.6, 0.6], degrees=True).as_matrix()
    matrix = np.diag(1 / rng.uniform(0.9, 1.1, 3)) @ turn
    centre = (np.array(template_shape) - 1) / 2
    shift = rng.uniform(-10, 10, 3)  # mm, so that the origin is not always the middle of the brain
    # The field covers every position that any subject's grid can reach.
    count = int(np.ceil(2 * 160 / _NODE_MM)) + 1
    nodes = VoxelGrid((count,) * 3, np.full(3, _NODE_MM), np.full(3, -160.0))
    noise = rng.standard_normal((3, *nodes.shape), np.float32)
    smooth = np.stack([ndimage.gaussian_filter(n, _SMOOTHNESS_MM / _NODE_MM, mode="wrap") for n in noise])
    smooth *= _SHIFT_MM / smooth.std()
    return Deformation(matrix, centre - matrix @ shift, nodes, smooth)
