"""Registration of one image to another with SimpleITK: affine, then deformable. Every call computes on one thread and
draws its samples with a seed, so that the same two images always give the same transform."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnkd.errors import PredictionError, in_one_line

BINS = 32
LEAST_VOXELS = 4  # along each axis: ITK smooths no fewer
AFFINE_SAMPLES, BSPLINE_SAMPLES = 8_000, 20_000
FINE_VOXELS = 1_000_000  # larger images are registered on a coarser grid
QUICK_VOXELS = 4_000  # for choosing atlases
DEMONS_ITERATIONS, DEMONS_SMOOTHING = 50, 1.0  # smoothing in voxels; 1.5 and 2.0 lost .011 and .027 DSC (hippocampus)
BSPLINE_ITERATIONS, BSPLINE_MESH = 20, 3  # a mesh of 5 gained .006 DSC in twice the time (hippocampus)


def to_image(
    array: NDArray[np.integer | np.floating],
    spacing: Sequence[float],
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    direction: NDArray[np.floating] | None = None,
) -> sitk.Image:
    """An array as an image; one slice becomes a 2D image, whose place in the world is left out.

    Args:
        array: (Z, Y, X).
        spacing: (z, y, x) mm.
        origin: (x, y, z) mm.
        direction: (3, 3), columns are the world directions of x, y and z.
    """
    if array.shape[0] == 1:
        image = sitk.GetImageFromArray(array[0])
        image.SetSpacing((float(spacing[2]), float(spacing[1])))
        return image
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(spacing)])
    image.SetOrigin([float(v) for v in origin])
    image.SetDirection((np.eye(3) if direction is None else direction).ravel().tolist())
    return image


def coarsened(image: sitk.Image, voxels: int, spacing: float | None = None) -> sitk.Image:
    """An image on a grid of at most so many voxels; it is smoothed first, and never refined.

    Args:
        image: float32.
        voxels: The most the result may have.
        spacing: In mm; None: the finest that `voxels` allows.
    """
    size, own = np.array(image.GetSize()), np.array(image.GetSpacing())
    wanted = own.min() if spacing is None else spacing

    def new_size(step: float) -> np.ndarray:
        return np.maximum(np.minimum(size, LEAST_VOXELS), np.round(size * own / np.maximum(own, step))).astype(int)

    while spacing is None and np.prod(new_size(wanted), dtype=float) > max(voxels, LEAST_VOXELS**3):
        wanted *= 1.05
    new = new_size(wanted)
    if (new == size).all():
        return image
    step = size * own / new
    sigma = np.where(step > own * 1.01, 0.4 * step, 1e-3 * own)
    smooth = sitk.DiscreteGaussian(image, variance=(sigma**2).tolist(), maximumKernelWidth=64)
    start = image.TransformContinuousIndexToPhysicalPoint(((step / own - 1) / 2).tolist())
    return sitk.Resample(
        smooth, new.tolist(), sitk.Transform(), sitk.sitkLinear, start, step.tolist(), image.GetDirection(),
        _lowest(image), sitk.sitkFloat32,
    )  # fmt: skip


def affine(
    fixed: sitk.Image, moving: sitk.Image, seed: int, initial: sitk.Transform | None = None, iterations: int = 60
) -> tuple[sitk.Transform, float]:
    """Affine registration by mutual information (Mattes), coarse to fine.

    Args:
        fixed: The image to register to, float32.
        moving: The image to be moved.
        seed: Of the sampling.
        initial: Where to start; None: centres of the grids or of the intensities, whichever fits better.
        iterations: The most at each level.

    Returns:
        The transform from fixed to moving, and the mutual information (higher is more similar).

    Raises:
        PredictionError: If one of them cannot be registered, or ITK gives up.
    """
    for image in (fixed, moving):
        why = obstacle(image)
        if why:
            raise PredictionError(f"an image {why}")
    try:
        return _affine(fixed, moving, seed, initial, iterations)
    except RuntimeError as error:
        raise PredictionError(f"ITK cannot register them ({in_one_line(error, last=True)})") from error


def obstacle(image: sitk.Image) -> str:
    """Why an image cannot be registered, as the rest of a sentence; empty: it can. Of NaN ITK says nothing: it looks
    for the axes of the intensities' moments for ever."""
    if min(image.GetSize()) < LEAST_VOXELS:
        return f"has fewer than {LEAST_VOXELS} voxels along an axis"
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        return "has values that are no finite numbers"
    return f"has the one value {low:g} everywhere" if low == high else ""


def _affine(
    fixed: sitk.Image, moving: sitk.Image, seed: int, initial: sitk.Transform | None, iterations: int
) -> tuple[sitk.Transform, float]:
    factors = [f for f in (4, 2, 1) if f == 1 or min(fixed.GetSize()) / f >= 8]
    method = _method(fixed, factors, AFFINE_SAMPLES, seed)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, iterations, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    start = sitk.AffineTransform(initial or _best_start(fixed, moving, seed))
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start, -float(method.GetMetricValue())


def demons(fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform) -> sitk.Transform:
    """Deformable registration of images of one modality, after an affine one.

    Source: Vercauteren et al. 2009, symmetric forces; intensities are matched by histogram first.
    """
    warped = sitk.Resample(moving, fixed, start, sitk.sitkLinear, _lowest(moving), sitk.sitkFloat32)
    warped = sitk.HistogramMatching(warped, fixed, 128, 10, True)
    field = None
    for factor in [f for f in (4, 2, 1) if f == 1 or min(fixed.GetSize()) / f >= 16]:
        level = fixed if factor == 1 else _shrunk(fixed, factor)
        other = warped if factor == 1 else sitk.Resample(_smoothed(warped, factor), level)
        step = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        step.SetNumberOfThreads(1)
        step.SetNumberOfIterations(DEMONS_ITERATIONS)
        step.SetSmoothDisplacementField(True)
        step.SetStandardDeviations(DEMONS_SMOOTHING)
        field = step.Execute(level, other) if field is None else step.Execute(level, other, sitk.Resample(field, level))
    deformation = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    return sitk.CompositeTransform([start, deformation])  # the last one is applied to a fixed point first


def bspline(fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform, seed: int) -> sitk.Transform:
    """Deformable registration by mutual information, for images whose intensities differ, after an affine one."""
    mesh = [BSPLINE_MESH] * fixed.GetDimension()
    spline = sitk.BSplineTransformInitializer(fixed, mesh, 3)
    factors = [2, 1] if min(fixed.GetSize()) >= 16 else [1]
    method = _method(fixed, factors, BSPLINE_SAMPLES, seed)
    method.SetMovingInitialTransform(start)
    method.SetOptimizerAsLBFGS2(1e-4, numberOfIterations=BSPLINE_ITERATIONS)
    method.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 2][: len(factors)])
    method.Execute(fixed, moving)
    return sitk.CompositeTransform([start, spline])


def warped_labels(
    labels: sitk.Image, reference: sitk.Image, transform: sitk.Transform, outside: int
) -> NDArray[np.integer]:
    """A label map brought to another grid: each voxel takes the label with the largest linear share.

    Returns:
        Array in the order of `reference` ((Z, Y, X) or (Y, X)); `outside` where the label map ends.
    """
    return sitk.GetArrayFromImage(sitk.Resample(labels, reference, transform, sitk.sitkLabelLinear, float(outside)))


def warped_image(moving: sitk.Image, reference: sitk.Image, transform: sitk.Transform) -> NDArray[np.float32]:
    """An image brought to another grid, float32."""
    return sitk.GetArrayFromImage(
        sitk.Resample(moving, reference, transform, sitk.sitkLinear, _lowest(moving), sitk.sitkFloat32)
    )


def _method(fixed: sitk.Image, factors: Sequence[int], samples: int, seed: int) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    voxels = float(np.prod(fixed.GetSize()))
    shares = [min(1.0, samples / (voxels / f ** fixed.GetDimension())) for f in factors]
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(shares, seed=seed + 1)  # 0 would be the clock
    method.SetShrinkFactorsPerLevel(list(factors))
    method.SetSmoothingSigmasPerLevel([f / 2 if f > 1 else 0.0 for f in factors])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return method


def _best_start(fixed: sitk.Image, moving: sitk.Image, seed: int) -> sitk.Transform:
    """Centres of the grids, unless the centres of the intensities fit better."""
    kinds = sitk.CenteredTransformInitializerFilter
    found = []
    for kind in (kinds.GEOMETRY, kinds.MOMENTS):
        method = _method(fixed, [1], AFFINE_SAMPLES, seed)
        try:
            start = sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(fixed.GetDimension()), kind)
            method.SetInitialTransform(start)
            found.append((method.MetricEvaluate(fixed, moving), start))
        except RuntimeError:  # the two do not overlap, or have no moments (a centre of intensities that sum to 0)
            continue
    if not found:
        return sitk.CenteredTransformInitializer(
            fixed, moving, sitk.AffineTransform(fixed.GetDimension()), kinds.GEOMETRY
        )
    return min(found, key=lambda pair: pair[0])[1]


def _smoothed(image: sitk.Image, factor: int) -> sitk.Image:
    return sitk.SmoothingRecursiveGaussian(image, [0.5 * factor * s for s in image.GetSpacing()])


def _shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    return sitk.Shrink(_smoothed(image, factor), [factor] * image.GetDimension())


def _lowest(image: sitk.Image) -> float:
    """What lies outside an image: its darkest value (air in CT)."""
    numbers = sitk.MinimumMaximumImageFilter()
    numbers.Execute(image)
    return float(numbers.GetMinimum())
