"""Flags beat variables, variables beat the file, and every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlserve.core.errors import SettingsError
from tlserve.core.lifecycle import Promotion
from tlserve.core.precision import Precision
from tlserve.settings import load_model_file, load_settings, recipe_for


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_flags_beat_variables_beat_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "t.toml", 'backbone = "file"\nmax_drop = 0.3\nkeep_versions = 7\n')
    monkeypatch.setenv("TLSERVE_BACKBONE", "variable")
    monkeypatch.setenv("TLSERVE_MAX_DROP", "0.2")
    settings = load_settings({"backbone": "flag", "max_drop": None}, file)
    assert (settings.backbone, settings.max_drop, settings.keep_versions) == ("flag", 0.2, 7)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_drop = 3", "max_drop"),
        ("foo = 1", "foo: no such setting"),
        ('grpc = "8001"', "HOST:PORT"),
        ("x =", "t.toml"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings({}, write(tmp_path / "t.toml", text))


@pytest.mark.parametrize("wish", ["auto", "cpu", "cuda", "cuda:1", "cuda:0,cuda:2"])
def test_devices_are_asked_for_in_words(wish: str) -> None:
    assert load_settings({"device": wish}).device == wish


@pytest.mark.parametrize("wish", ["gpu", "cuda:", "cuda:0,cpu", "cuda:1,cuda:1"])
def test_a_device_that_cannot_be_is_named(wish: str) -> None:
    with pytest.raises(SettingsError, match="device: "):
        load_settings({"device": wish})


def test_precision_comes_from_the_flag_the_variable_the_file_or_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, file = load_model_file(tmp_path), write(tmp_path / "t.toml", 'precision = "fp16"\n')
    assert recipe_for(load_settings({}), empty).precision is Precision.AUTO
    assert recipe_for(load_settings({}, file), empty).precision is Precision.FP16
    monkeypatch.setenv("TLSERVE_PRECISION", "int8")
    settings = load_settings({}, file)
    assert recipe_for(settings, empty).precision is Precision.INT8
    assert load_settings({"precision": "fp32"}, file).precision is Precision.FP32
    write(tmp_path / "model.toml", 'precision = "auto"\n')
    assert recipe_for(settings, load_model_file(tmp_path)).precision is Precision.AUTO


def test_a_precision_that_there_is_not_is_named_with_those_there_are(tmp_path: Path) -> None:
    words = r"precision: must be 'auto', 'fp32', 'fp16' or 'int8' \(got 'int4'\)"
    with pytest.raises(SettingsError, match=words):
        load_settings({"precision": "int4"})
    write(tmp_path / "model.toml", 'precision = "int4"\n')
    with pytest.raises(SettingsError, match=rf"model\.toml: {words}"):
        load_model_file(tmp_path)


def test_a_settings_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load_settings({}, tmp_path / "nowhere.toml")


def test_model_toml_overrides_the_daemon_and_a_person_overrides_both(tmp_path: Path) -> None:
    write(tmp_path / "model.toml", 'backbone = "own"\npromotion = "manual"\nmax_drop = 0.05\n')
    settings, file = load_settings({}), load_model_file(tmp_path)
    recipe = recipe_for(settings, file)
    assert (recipe.backbone, recipe.promotion, recipe.policy.max_drop) == ("own", Promotion.MANUAL, 0.05)
    assert recipe_for(settings, file, Promotion.AUTO).promotion is Promotion.AUTO
    assert recipe_for(settings, file, backbone="adopted").backbone == "adopted"


def test_without_a_model_toml_the_daemon_decides(tmp_path: Path) -> None:
    assert recipe_for(load_settings({}), load_model_file(tmp_path)).backbone == "nano"


@pytest.mark.parametrize("text", ["bakbone = 'x'", "max_drop = 'much'", "= 3"])
def test_a_mistake_in_model_toml_names_the_file(tmp_path: Path, text: str) -> None:
    write(tmp_path / "model.toml", text)
    with pytest.raises(SettingsError, match=r"model\.toml"):
        load_model_file(tmp_path)


def test_how_a_model_learns_comes_from_its_own_file_first(tmp_path: Path) -> None:
    general = write(tmp_path / "t.toml", 'head = "ridge"\nviews = 5\nunfreeze = "all"\n')
    write(
        tmp_path / "model.toml",
        'augment = ["flip", "rotate=15"]\nviews = 2\nstrategy = "taps"\nstudy = false\n',
    )
    recipe = recipe_for(load_settings({}, general), load_model_file(tmp_path))
    wish = recipe.wish
    assert (wish.head, wish.strategy, wish.views, wish.tune.unfreeze) == ("ridge", "taps", 2, "all")
    assert (wish.augment, recipe.study) == (("flip", "rotate=15"), False)


def test_a_policy_may_be_named_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLSERVE_AUGMENT", "heavy")
    assert load_settings({}).augment == ("heavy",)
    monkeypatch.setenv("TLSERVE_AUGMENT", '["flip", "blur"]')
    assert load_settings({}).augment == ("flip", "blur")
    monkeypatch.setenv("TLSERVE_AUGMENT", "flip, blur=2")
    assert load_settings({}).augment == ("flip", "blur=2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head", '"forest"'),
        ("augment", '"wild"'),
        ("augment", '["flip", "explode"]'),
        ("unfreeze", "0"),
        ("views", "-1"),
        ("novelty_budget_kb", "1"),
        ("tune_minutes", "inf"),
        ("activation_cache_gb", "inf"),
        ("seed", "9223372036854775808"),
    ],
)
def test_a_wish_that_nothing_can_fulfil_is_named(tmp_path: Path, name: str, value: str) -> None:
    write(tmp_path / "model.toml", f"{name} = {value}")
    with pytest.raises(SettingsError, match=rf"model\.toml: {name}"):
        load_model_file(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('head = "forest"', "head: must be 'softmax', 'ovr', 'svm', 'ridge', 'projection', 'mlp' or 'auto'"),
        ("unfreeze = 0", "unfreeze: must be at least 1, 'all' or 'auto' (got 0)"),
        ('unfreeze = "most"', "unfreeze: must be a whole number, 'all' or 'auto' (got 'most')"),
        ("tune_minutes = 0", "tune_minutes: must be above 0 (got 0)"),
        ('study = "maybe"', "study: must be true or false (got 'maybe')"),
        ("augment = 3", "augment: must be a list or text in quotes (got 3)"),
        ('augment = ["rotate=900"]', "augment: the strength of 'rotate'"),
        ("veiws = 2", "veiws: no such setting (got 2)"),
    ],
)
def test_a_mistake_is_one_plain_line(tmp_path: Path, line: str, said: str) -> None:
    write(tmp_path / "model.toml", line)
    with pytest.raises(SettingsError) as caught:
        load_model_file(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'model.toml'}: {said}")
    assert "\n" not in str(caught.value)
