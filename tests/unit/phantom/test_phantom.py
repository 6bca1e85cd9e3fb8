"""The phantom's masks are what they claim: areas, planes, seeds, containment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.phantom import (
    LEVEL_NAMES,
    Body,
    PhantomParameters,
    PhantomSlice,
    level_z_mm,
    make_axial_slice,
    make_sagittal_slice,
    make_volume,
    masks_from_labels,
    random_parameters,
    reference_parameters,
)
from ctai_sam2.phantom.labels import MUSCLES
from tests.phantom_truth import analytic_areas_mm2, psoas_area_mm2


def _drawn(seed: int, **changes: object) -> PhantomParameters:
    drawn = random_parameters(np.random.default_rng(seed))
    return dataclasses.replace(drawn, **{"field_of_view_mm": 1000.0, **changes})


def _axial(parameters: PhantomParameters, *, level: str = "L3", spacing_mm: float = 1.5) -> PhantomSlice:
    size = round(420 / spacing_mm)
    return make_axial_slice(
        parameters,
        level=level,
        shape_hw=(size, size),
        spacing_mm=(spacing_mm, spacing_mm),
        rng=np.random.default_rng(0),
    )


class TestAreas:
    @pytest.mark.parametrize("seed", [0, 1, 5])
    @pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 1.5])
    @pytest.mark.parametrize("name", ["psoas_left", "psoas_right", "vertebra"])
    def test_mask_meets_closed_form_within_pixel_quantisation(
        self, seed: int, spacing_mm: float, name: str
    ) -> None:
        parameters = _drawn(seed)
        area = analytic_areas_mm2(parameters, 0.0, sampling_mm=2.0)[name]
        counted = _axial(parameters, spacing_mm=spacing_mm).masks[name].sum() * spacing_mm**2
        # The lattice error of a smooth convex outline grows with its length: a perimeter times a
        # tenth of a pixel is several standard deviations of it.
        perimeter_mm = 4.5 * np.sqrt(area)
        assert abs(counted - area) < 0.1 * spacing_mm * perimeter_mm

    @pytest.mark.parametrize("z_mm", [-60.0, -20.0, 11.0, 37.0, 70.0])
    def test_psoas_is_exact_at_every_height(self, z_mm: float) -> None:
        parameters = _drawn(3, rotation_deg=7.0, scoliosis_mm=10.0, warp_mm=3.0)
        body = Body(parameters)
        fine = np.arange(-140, 140, 0.4)
        masks = masks_from_labels(body.label_at(fine[None, :], fine[:, None], z_mm))
        for side in ("left", "right"):
            area = psoas_area_mm2(body.psoas[side], z_mm)
            assert masks[f"psoas_{side}"].sum() * 0.4**2 == pytest.approx(area, rel=5e-3)

    @pytest.mark.parametrize("z_mm", [0.0, 12.0, 13.5, 16.0, 18.5, 37.0, -74.0])
    def test_vertebra_is_integrated_across_endplates(self, z_mm: float) -> None:
        parameters = dataclasses.replace(reference_parameters(), lordosis_apex_mm=30.0)
        fine = np.arange(-45, 45, 0.15)
        masks = masks_from_labels(Body(parameters).label_at(fine[None, :], fine[:, None], z_mm))
        counted = masks["vertebra"].sum() * 0.15**2 if "vertebra" in masks else 0.0
        area = analytic_areas_mm2(parameters, z_mm, sampling_mm=2.0)["vertebra"]
        assert counted == pytest.approx(area, rel=4e-3, abs=1.0)

    def test_counted_areas_converge(self) -> None:
        parameters = reference_parameters()
        coarse = analytic_areas_mm2(parameters, 0.0, sampling_mm=1.0)
        fine = analytic_areas_mm2(parameters, 0.0, sampling_mm=0.5)
        for name in ("muscle", "sat"):
            assert coarse[name] == pytest.approx(fine[name], rel=0.01)

    def test_there_is_no_psoas_in_the_chest(self) -> None:
        assert analytic_areas_mm2(reference_parameters(), 130.0, sampling_mm=2.0)["psoas_left"] == 0.0

    def test_asymmetry_enlarges_the_left(self) -> None:
        areas = analytic_areas_mm2(_drawn(2, asymmetry=0.2), 0.0, sampling_mm=2.0)
        assert areas["psoas_left"] / areas["psoas_right"] == pytest.approx(1.2 / 0.8)

    def test_drawn_patients_are_plausible(self) -> None:
        areas = [analytic_areas_mm2(_drawn(seed), 0.0, sampling_mm=2.0) for seed in range(16)]
        psoas = np.asarray([area["psoas_left"] for area in areas]) / 100
        muscle = np.asarray([area["muscle"] for area in areas]) / 100
        assert 5 < np.median(psoas) < 12
        assert psoas.max() > 1.5 * psoas.min()
        assert 90 < np.median(muscle) < 150


class TestMasks:
    @pytest.mark.parametrize("seed", range(6))
    def test_documented_containment(self, seed: int) -> None:
        masks = _axial(_drawn(seed, imat_share=0.1)).masks
        muscles = [masks[name] for name in MUSCLES if name in masks]
        assert len(muscles) == len(MUSCLES)
        assert (np.sum(muscles, axis=0) == masks["muscle"]).all()
        assert not (masks["imat"] & ~masks["muscle"]).any()
        assert (masks["vertebra"] == masks["L3"]).all()
        for name in set(masks) - {"body"}:
            assert not (masks[name] & ~masks["body"]).any()
        for name in ("sat", "vat", "vertebra", "skin", "aorta"):
            assert not (masks[name] & masks["muscle"]).any()
        assert not (masks["sat"] & masks["vat"]).any()

    def test_patient_left_is_on_the_right_of_the_image_and_front_is_up(self) -> None:
        masks = _axial(reference_parameters()).masks
        rows, columns = ({name: np.nonzero(masks[name])[axis].mean() for name in masks} for axis in (0, 1))
        assert columns["psoas_left"] > columns["vertebra"] > columns["psoas_right"]
        assert columns["aorta"] > columns["cava"]
        assert rows["rectus_left"] < rows["vertebra"] < rows["erector_left"]

    def test_hu_fit_the_tissues(self) -> None:
        parameters = dataclasses.replace(reference_parameters(), noise_hu=5.0)
        image = _axial(parameters)
        means = {name: float(image.hu[mask].mean()) for name, mask in image.masks.items()}
        assert 20 < means["psoas_left"] < 60
        assert -115 < means["sat"] < -85
        assert means["vertebra"] > 150
        assert image.hu.dtype == np.int16
        assert image.hu.min() >= -1024
        assert image.hu[0, 0] < -900

    def test_phase_changes_vessels_not_anatomy(self) -> None:
        plain, arterial = (
            _axial(dataclasses.replace(reference_parameters(), phase=phase))
            for phase in ("unenhanced", "arterial")
        )
        assert all((plain.masks[name] == arterial.masks[name]).all() for name in plain.masks)
        aorta = plain.masks["aorta"]
        assert arterial.hu[aorta].mean() > plain.hu[aorta].mean() + 100

    def test_no_streaks_no_imat(self) -> None:
        assert "imat" not in _axial(dataclasses.replace(reference_parameters(), imat_share=0.0)).masks

    def test_more_streaks_more_imat(self) -> None:
        shares = []
        for share in (0.05, 0.3):
            masks = _axial(dataclasses.replace(reference_parameters(), imat_share=share)).masks
            shares.append(masks["imat"].sum() / masks["muscle"].sum())
        assert shares[0] < 0.15 < shares[1] < 0.5

    @pytest.mark.parametrize(("spacing_mm", "mixed"), [(1.9, False), (3.0, True)])
    def test_coarse_pixels_average_over_borders(self, spacing_mm: float, mixed: bool) -> None:
        parameters = dataclasses.replace(
            reference_parameters(), noise_hu=0.0, streak_hu=0.0, blur_mm=0.0, table=False
        )
        image = _axial(parameters, spacing_mm=spacing_mm)
        # Nothing but bowel gas and its border is as dark as this inside the skin.
        between = (image.hu > -900) & (image.hu < -250) & ~image.masks["bowel"]
        assert bool(between.sum() > 20) == mixed

    def test_truncated_field_of_view_is_air_in_image_and_masks(self) -> None:
        image = _axial(_drawn(4, field_of_view_mm=200.0, padding_hu=-1024.0))
        assert (image.hu[:, 0] == -1024).all()
        assert not image.masks["body"][:, 0].any()


class TestPlanes:
    def test_sagittal_agrees_with_axial_where_they_cross(self) -> None:
        parameters = _drawn(8, imat_share=0.1, rotation_deg=4.0, scoliosis_mm=8.0)
        body = Body(parameters)
        x = np.arange(-60, 61, 6.0)
        y = np.arange(-150, 120, 3.0)
        z = np.arange(-120, 121, 8.0)
        axial = np.stack([body.label_at(x[None, :], y[:, None], height) for height in z])
        for column, x_mm in enumerate(x):
            sagittal = body.label_at(x_mm, y[None, :], z[:, None])
            # A point on a border may fall either way by rounding of its coordinates.
            assert np.mean(sagittal != axial[:, :, column]) < 2e-3

    def test_scattered_points_agree_with_the_grid(self) -> None:
        parameters = reference_parameters()
        x, y = np.arange(-100, 100, 5.0), np.arange(-100, 100, 5.0)
        body = Body(parameters)
        grid = body.label_at(x[None, :], y[:, None], 0.0)
        full_x, full_y = np.meshgrid(x, y)
        labels = body.label_at(full_x.ravel(), full_y.ravel(), np.zeros(full_x.size))
        assert np.mean(labels.reshape(grid.shape) != grid) < 2e-3

    def test_sagittal_shows_the_lumbar_spine_in_order(self) -> None:
        image = make_sagittal_slice(
            reference_parameters(), shape_hw=(400, 400), spacing_mm=(1, 1), rng=np.random.default_rng(0)
        )
        names = ("L1", "L2", "L3", "L4", "L5", "S1")
        rows = [np.nonzero(image.masks[name])[0].mean() for name in names]
        assert rows == sorted(rows)
        for name in names[:5]:
            height, width = (np.ptp(np.nonzero(image.masks[name])[axis]) + 1 for axis in (0, 1))
            assert 24 < height < 45
            assert 28 < width < 46
        columns = {name: np.nonzero(image.masks[name])[1].mean() for name in ("L3", "canal", "skin")}
        assert columns["canal"] > columns["L3"]

    def test_bodies_and_discs_are_disjoint(self) -> None:
        image = make_sagittal_slice(
            _drawn(1), shape_hw=(256, 256), spacing_mm=(1.5, 1.5), rng=np.random.default_rng(0)
        )
        parts = [image.masks[name] for name in (*LEVEL_NAMES, "disc", "canal") if name in image.masks]
        assert np.sum(parts, axis=0).max() == 1

    def test_volume_slices_are_axial_slices(self) -> None:
        parameters = reference_parameters()
        volume = make_volume(
            parameters, shape_zyx=(5, 64, 72), spacing_zyx_mm=(37.0, 6.0, 6.0), rng=np.random.default_rng(0)
        )
        assert volume.hu_zyx.shape == volume.labels_zyx.shape == (5, 64, 72)
        for index in range(5):
            x, y, z = (volume.affine @ [0, 0, index, 1])[:3]
            image = make_axial_slice(
                parameters, z_mm=z, shape_hw=(64, 72), spacing_mm=(6, 6), rng=np.random.default_rng(0)
            )
            assert image.origin_mm == pytest.approx((x, y, z))
            masks = masks_from_labels(volume.labels_zyx[index])
            assert all((masks[name] == image.masks[name]).all() for name in image.masks)
        assert volume.levels_mm["L3"] == 0.0
        assert volume.levels_mm["L2"] > volume.levels_mm["L4"]

    def test_level_is_its_height(self) -> None:
        parameters = reference_parameters()
        assert _axial(parameters, level="L4").position_mm == level_z_mm(parameters, "L4")
        assert "L4" in _axial(parameters, level="L4").masks


class TestSeeds:
    def test_same_seed_same_slice(self) -> None:
        one, two = (_axial(random_parameters(np.random.default_rng(11))) for _ in range(2))
        assert (one.hu == two.hu).all()

    def test_noise_differs_with_rng_but_masks_do_not(self) -> None:
        one, two = (
            make_axial_slice(
                reference_parameters(),
                shape_hw=(128, 128),
                spacing_mm=(3, 3),
                rng=np.random.default_rng(seed),
            )
            for seed in (1, 2)
        )
        assert (one.hu != two.hu).any()
        assert all((one.masks[name] == two.masks[name]).all() for name in one.masks)

    def test_different_seeds_differ(self) -> None:
        assert random_parameters(np.random.default_rng(1)) != random_parameters(np.random.default_rng(2))

    def test_phase_and_position_can_be_fixed(self) -> None:
        for seed in range(5):
            parameters = random_parameters(np.random.default_rng(seed), phase="arterial", position="prone")
            assert (parameters.phase, parameters.position) == ("arterial", "prone")

    def test_many_draws_are_valid(self) -> None:
        rng = np.random.default_rng(0)
        positions = {random_parameters(rng).position for _ in range(300)}
        assert positions == {"supine", "prone"}


class TestInvalid:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("psoas_half_width_mm", 0.0),
            ("psoas_half_width_mm", float("nan")),
            ("sat_front_mm", -1.0),
            ("imat_share", 1.5),
            ("noise_hu", "much"),
            ("vertebra_height_mm", True),
            ("phase", "late"),
            ("position", "lateral"),
            ("detail_seed", -1),
            ("detail_seed", 1.5),
        ],
    )
    def test_parameters(self, name: str, value: object) -> None:
        with pytest.raises(InputError, match=name):
            PhantomParameters(**{name: value})

    @pytest.mark.parametrize(
        "changes",
        [
            {"shape_hw": (4, 64)},
            {"shape_hw": (64, 64, 64)},
            {"spacing_mm": (0.0, 1.0)},
            {"spacing_mm": (float("nan"), 1.0)},
            {"level": "C1"},
            {"z_mm": float("inf")},
        ],
    )
    def test_axial_arguments(self, changes: dict[str, object]) -> None:
        with pytest.raises(InputError):
            make_axial_slice(reference_parameters(), rng=np.random.default_rng(0), **changes)

    @pytest.mark.parametrize("changes", [{"shape_zyx": (64, 64)}, {"shape_zyx": (0, 64, 64)}])
    def test_volume_arguments(self, changes: dict[str, object]) -> None:
        with pytest.raises(InputError):
            make_volume(reference_parameters(), rng=np.random.default_rng(0), **changes)

    @pytest.mark.parametrize(
        "points",
        [
            (np.zeros((1, 1, 1, 2)), 0.0, 0.0),
            (np.zeros(3), np.zeros(2), 0.0),
            (float("nan"), 0.0, 0.0),
        ],
    )
    def test_points(self, points: tuple[object, object, object]) -> None:
        with pytest.raises(InputError):
            Body(reference_parameters()).label_at(*points)


class TestFindings:
    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"ascites_mm": 30.0}, "ascites"),
            ({"metal_mm": 2.5}, "metal"),
            ({"arms_down": True}, "arms"),
        ],
    )
    def test_a_finding_is_drawn_and_has_its_mask(self, changes: dict[str, object], name: str) -> None:
        plain = make_axial_slice(
            reference_parameters(), z_mm=5.0, shape_hw=(300, 360), spacing_mm=(1.5, 1.5), rng=_rng()
        )
        found = make_axial_slice(
            dataclasses.replace(reference_parameters(), **changes),
            z_mm=5.0,
            shape_hw=(300, 360),
            spacing_mm=(1.5, 1.5),
            rng=_rng(),
        )
        assert name not in plain.masks
        assert found.masks[name].sum() > 20
        for other in ("muscle", "sat", "vat", "vertebra"):
            assert not (found.masks[name] & found.masks[other]).any()
            # Nothing appears where it was not.
            assert not (found.masks[other] & ~plain.masks[other]).any()
        assert (found.masks["psoas_left"] == plain.masks["psoas_left"]).all()

    def test_arms_are_not_the_body(self) -> None:
        image = _axial(dataclasses.replace(reference_parameters(), arms_down=True))
        assert not (image.masks["arms"] & image.masks["body"]).any()

    def test_ascites_takes_fat_only_and_is_water(self) -> None:
        plain, wet = (
            _axial(dataclasses.replace(reference_parameters(), ascites_mm=depth)) for depth in (0.0, 30.0)
        )
        lost = plain.masks["vat"] & ~wet.masks["vat"]
        assert lost.sum() > 100
        assert (lost <= wet.masks["ascites"]).all()
        assert 0 < np.median(wet.hu[wet.masks["ascites"]]) < 20

    def test_oedema_brightens_subcutaneous_fat_and_no_mask_moves(self) -> None:
        dry, wet = (_axial(dataclasses.replace(reference_parameters(), oedema=share)) for share in (0.0, 1.0))
        assert wet.hu[wet.masks["sat"]].mean() > dry.hu[dry.masks["sat"]].mean() + 10
        assert all((dry.masks[name] == wet.masks[name]).all() for name in dry.masks)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_stoma_leads_through_one_rectus(self, seed: int) -> None:
        plain = dataclasses.replace(reference_parameters(), detail_seed=seed)
        before, after = (
            make_axial_slice(
                dataclasses.replace(plain, stoma_mm=size),
                z_mm=0.0,
                shape_hw=(280, 280),
                spacing_mm=(1.5, 1.5),
                rng=_rng(),
            )
            for size in (0.0, 25.0)
        )
        lost = {
            side: (before.masks[side] & ~after.masks[side]).sum() for side in ("rectus_left", "rectus_right")
        }
        assert max(lost.values()) > 20
        assert min(lost.values()) == 0
        assert (after.masks["body"] & ~before.masks["body"] & ~after.masks["bowel"]).sum() == 0

    def test_hernia_takes_subcutaneous_fat_only_outside_the_wall(self) -> None:
        p = dataclasses.replace(reference_parameters(), hernia_mm=40.0)
        plain, found = _axial(reference_parameters()), _axial(p)
        assert (plain.masks["sat"] & ~found.masks["sat"]).sum() > 50
        assert (plain.masks["body"] == found.masks["body"]).all()
        assert not (found.masks["muscle"] & ~plain.masks["muscle"]).any()

    def test_clefts_are_fat_within_the_compartment(self) -> None:
        plain, parted = (
            _axial(dataclasses.replace(reference_parameters(), erector_cleft_mm=width))
            for width in (0.0, 4.0)
        )
        for side in ("erector_left", "erector_right"):
            lost = plain.masks[side] & ~parted.masks[side]
            assert lost.sum() > 10
            assert parted.hu[lost].mean() < -20
            assert not (parted.masks[side] & ~plain.masks[side]).any()

    def test_fused_discs_are_bone_and_move_no_mask_of_a_muscle_or_body(self) -> None:
        p = reference_parameters()
        pitch_mm = p.vertebra_height_mm + p.disc_height_mm
        for turns, is_fused in ((-2.5, False), (-1.5, True), (-0.5, True), (0.5, False)):
            plain, fused = (
                make_axial_slice(
                    dataclasses.replace(p, fused_discs=count),
                    z_mm=turns * pitch_mm,
                    shape_hw=(120, 120),
                    spacing_mm=(3.3, 3.3),
                    rng=np.random.default_rng(0),
                )
                for count in (0, 2)
            )
            disc = plain.masks["disc"]
            assert fused.masks.get("disc", np.zeros(1)).any() != is_fused
            assert (fused.hu[disc].mean() > plain.hu[disc].mean() + 80) == is_fused
            for name in ("psoas_left", "psoas_right", "muscle"):
                assert (fused.masks[name] == plain.masks[name]).all()

    def test_metal_makes_rays_but_moves_no_mask_of_the_vertebra(self) -> None:
        p = dataclasses.replace(reference_parameters(), noise_hu=0.0)
        plain, metal = (
            make_axial_slice(
                dataclasses.replace(p, metal_mm=size),
                z_mm=5.0,
                shape_hw=(280, 280),
                spacing_mm=(1.5, 1.5),
                rng=_rng(),
            )
            for size in (0.0, 2.5)
        )
        erector = metal.masks["erector_left"]
        assert metal.hu[erector].std() > 1.4 * plain.hu[erector].std()
        assert metal.hu.max() == 3071
        assert (metal.masks["vertebra"] == plain.masks["vertebra"]).all()

    @pytest.mark.parametrize("padding_hu", [-1000.0, -1024.0, -2000.0])
    def test_padding_beyond_the_circle(self, padding_hu: float) -> None:
        p = dataclasses.replace(reference_parameters(), field_of_view_mm=250.0, padding_hu=padding_hu)
        image = _axial(p)
        assert image.hu[0, 0] == padding_hu
        assert not image.masks["muscle"][image.hu == padding_hu].any()

    def test_random_patients_have_each_finding_now_and_then(self) -> None:
        drawn = [random_parameters(np.random.default_rng(seed)) for seed in range(300)]
        for name in ("ascites_mm", "oedema", "hernia_mm", "stoma_mm", "metal_mm", "arms_down"):
            assert 0.02 < np.mean([bool(getattr(p, name)) for p in drawn]) < 0.2
        assert np.mean([abs(p.scoliosis_mm) > 12 for p in drawn]) > 0.02
        assert {p.padding_hu for p in drawn} == {-1000.0, -1024.0, -2000.0}

    @pytest.mark.parametrize(
        ("name", "value"),
        [("ascites_mm", -1.0), ("oedema", 1.2), ("metal_mm", 9.0), ("arms_down", 1), ("padding_hu", 0.0)],
    )
    def test_out_of_range(self, name: str, value: object) -> None:
        with pytest.raises(InputError, match=name):
            PhantomParameters(**{name: value})


def test_the_reference_phantom_stays_as_it_is() -> None:
    image = make_axial_slice(reference_parameters(), rng=_rng())
    counted = {name: int(image.masks[name].sum()) for name in ("psoas_left", "muscle", "sat", "vat")}
    assert counted == {"psoas_left": 1443, "muscle": 19579, "sat": 27038, "vat": 16768}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
