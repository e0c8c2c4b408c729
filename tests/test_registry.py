"""Methods are found by name or refused; every option is validated as data, over the whole registry."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any, get_type_hints

import pytest

import hf_reprogram
from hf_reprogram import registry
from hf_reprogram.errors import ConfigError, UsageError
from hf_reprogram.registry import (
    KINDS,
    build,
    filled_in,
    find_options,
    method_class,
    misfit,
    names,
    option,
    options_class,
)


METHODS = [(kind, name) for kind in KINDS for name in names(kind)]
FIELDS = [(k, n, f) for k, n in METHODS for f in dataclasses.fields(options_class(k, n)) if f.name != "type"]
RANGED = [(k, n, f) for k, n, f in FIELDS if f.metadata.get("low") is not None or f.metadata.get("high") is not None]
CHOSEN = [(k, n, f) for k, n, f in FIELDS if f.metadata.get("choices")]


def _ids(case: tuple) -> str:
    return f"{case[1]}.{case[2].name}"


def _example(kind: str, name: str) -> dict[str, Any]:
    return method_class(kind, name).example


def _default(f: dataclasses.Field) -> Any:
    return f.default_factory() if f.default is dataclasses.MISSING else f.default


class TestEveryMethod:
    @pytest.mark.parametrize(("kind", "name"), METHODS)
    def test_states_its_facts(self, kind: str, name: str) -> None:
        cls = method_class(kind, name)
        assert cls.Options.type == name and cls.Options.kind == kind
        assert cls.__doc__ and cls.Options.__doc__ and "Example:" in cls.Options.__doc__
        told = [f.name for f in dataclasses.fields(cls.Options) if not filled_in(f)]
        assert all(f"    {each}: " in inspect.getdoc(cls.Options) for each in told)  # help() says what each is for
        assert isinstance(cls.learning_rate, float) and isinstance(cls.example, dict)
        assert isinstance(cls.paper, str) and all(reason for reason in cls.xfail.values())

    @pytest.mark.parametrize(("kind", "name"), METHODS)
    def test_its_example_is_a_config_and_survives_json(self, kind: str, name: str) -> None:
        options = options_class(kind, name)(**_example(kind, name))
        again = build(kind, options.to_dict(), "x")
        assert again == options and type(again) is type(options)

    @pytest.mark.parametrize(("kind", "name"), METHODS)
    def test_is_found_by_the_name_of_its_options(self, kind: str, name: str) -> None:
        cls = options_class(kind, name)
        assert find_options(cls.__name__) is cls

    @pytest.mark.parametrize("case", FIELDS, ids=_ids)
    def test_every_option_has_a_help_text_a_plain_type_and_a_default_that_fits(self, case: tuple) -> None:
        kind, name, f = case
        assert len(f.metadata.get("help", "")) > 10, "an option without a help text"
        hint = get_type_hints(options_class(kind, name))[f.name]
        assert misfit(_default(f), hint, f.name) is None
        # What says nothing of its type checks nothing.
        assert misfit(object(), hint, f.name) is not None


class TestRanges:
    """Every documented range is enforced, and the default lies inside it (invariant 11)."""

    @pytest.mark.parametrize("case", RANGED, ids=_ids)
    def test_numbers(self, case: tuple) -> None:
        kind, name, f = case
        low, high = f.metadata["low"], f.metadata["high"]
        optional = f.default is None
        assert optional or ((low is None or low <= f.default) and (high is None or f.default <= high))
        cls, rest = options_class(kind, name), _example(kind, name)
        for limit, outside in ((low, -1), (high, 1)):
            if limit is None:
                continue
            cls(**{**rest, f.name: limit})
            beyond = limit + outside * (1 if isinstance(limit, int) else max(abs(limit) * 1e-6, 1e-12))
            self._refused(cls, rest, f.name, beyond)
        for value in (float("nan"), float("inf"), float("-inf"), 10**400, True, "1", [1], *[None] * (not optional)):
            self._refused(cls, rest, f.name, value)

    @pytest.mark.parametrize("case", CHOSEN, ids=_ids)
    def test_choices(self, case: tuple) -> None:
        kind, name, f = case
        cls, choices = options_class(kind, name), f.metadata["choices"]
        default = _default(f)
        assert default in choices or default is None
        error = self._refused(cls, _example(kind, name), f.name, str(choices[0]) + "x")
        assert f"did you mean {choices[0]!r}" in error.fix
        for value in (7, True, [choices[0]], choices[0].upper() + "?"):
            self._refused(cls, _example(kind, name), f.name, value)

    @pytest.mark.parametrize("case", FIELDS, ids=_ids)
    def test_types(self, case: tuple) -> None:
        kind, name, f = case
        for value in (object(), {1: 2}, [[[]]], {"a": [None]}, b"x", (1,), print):
            self._refused(options_class(kind, name), _example(kind, name), f.name, value)

    @staticmethod
    def _refused(cls: type, rest: dict[str, Any], name: str, value: Any) -> ConfigError:
        with pytest.raises(ConfigError) as error:
            cls(**{**rest, name: value})
        assert error.value.where.startswith(f"{cls.__name__}.{name}")
        assert error.value.expected or error.value.fix
        return error.value


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("kind", "name", "nearest"),
        [
            ("program", "promt", "prompt"),
            ("program", "Prompt", "prompt"),
            ("program", "soft_prompt", "prompt"),
            ("mapping", "verbaliser", "verbalizer"),
            ("mapping", "liner", "linear"),
        ],
    )
    def test_methods_name_the_nearest(self, kind: str, name: str, nearest: str) -> None:
        with pytest.raises(ConfigError, match=f"unknown {kind} {name!r}.*did you mean {nearest!r}.*Known: "):
            build(kind, name, "ReprogramConfig.x")

    @pytest.mark.parametrize("name", ["base", "__init__", "prompt.Prompt", "../prompt", "os.system", "", " prompt"])
    def test_what_is_no_method_is_never_imported(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "import_module", lambda n: pytest.fail(f"imported {n}"))
        with pytest.raises(ConfigError, match="unknown program.*; hf-reprogram methods says what each program does$"):
            build("program", name, "ReprogramConfig.program")

    @pytest.mark.parametrize(("kind", "name"), METHODS)
    def test_options_name_the_nearest_as_keyword_and_as_key(self, kind: str, name: str) -> None:
        cls = options_class(kind, name)
        for f in [f for k, n, f in FIELDS if (k, n) == (kind, name)] or [None]:
            wrong = f"{f.name}x" if f else "x"
            for attempt in (
                lambda wrong=wrong: cls(**{wrong: 1}),
                lambda wrong=wrong: build(kind, {"type": name, wrong: 1}, "x"),
            ):
                with pytest.raises(ConfigError, match=rf"{cls.__name__}\.{wrong}: no such option") as error:
                    attempt()
                assert f is None or filled_in(f) or f"did you mean {f.name!r}" in error.value.fix

    @pytest.mark.parametrize("value", [7, [], {}, {"type": 7}, {"template": "x"}, True, {"type": None}, object()])
    def test_what_is_no_method_at_all(self, value: Any) -> None:
        with pytest.raises(ConfigError, match="hf-reprogram methods lists the programs"):
            build("program", value, "ReprogramConfig.program")

    def test_a_method_of_the_other_kind(self) -> None:
        with pytest.raises(ConfigError, match="VerbalizerConfig is a mapping. Expected a program"):
            build("program", options_class("mapping", "verbalizer")(words={"a": ["x"], "b": ["y"]}), "x")
        with pytest.raises(ConfigError, match="unknown program 'linear'"):
            build("program", "linear", "x")

    def test_no_class_of_that_name(self) -> None:
        assert find_options("NopeConfig") is None and find_options("Prompt") is None


class TestMisfit:
    @pytest.mark.parametrize(
        ("value", "hint", "place"),
        [
            (1, int, None), (1, float, None), (1.0, int, "x"), (True, int, "x"), (True, float, "x"), (1, bool, "x"),
            ("a", str | None, None), (None, str | None, None), (None, str, "x"), (7, str | list[str] | None, "x"),
            (["a"], str | list[str], None), (["a", 1], str | list[str], "x[1]"), ([], list[str], None),
            ("ab", list[str], "x"), ({"a": [1]}, dict[str, list[int]], None),
            ({"a": [1, True]}, dict[str, list[int]], "x['a'][1]"),
            ({1: []}, dict[str, list[int]], "x[1]"), ({"a": 1}, dict[str, Any], None), ([None], list[Any], None),
        ],
    )  # fmt: skip
    def test_places(self, value: Any, hint: Any, place: str | None) -> None:
        found = misfit(value, hint, "x")
        assert (found and found[0]) == place


class _Entry:
    """An entry point of another package."""

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.found = name, found

    def load(self) -> Any:
        return self.found


class TestForeignMethods:
    """A method in a package of its own is found by its entry point."""

    @pytest.fixture(autouse=True)
    def fresh(self) -> Any:
        method_class.cache_clear()
        yield
        method_class.cache_clear()

    @staticmethod
    def _method(name: str = "far", kind: str = "program") -> type:
        @dataclasses.dataclass
        class FarConfig(registry.Options):
            type: str = dataclasses.field(default=name, init=False)
            depth: int = option(1, "How far it goes down.", low=1, high=3)

        FarConfig.kind = kind
        return type("Far", (), {"Options": FarConfig})

    def test_is_found_built_and_validated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        method = self._method()
        monkeypatch.setattr(
            registry, "entry_points", lambda group: [_Entry("far", method)] if group.endswith("programs") else []
        )
        assert "far" in names("program") and "far" not in names("mapping")
        assert method_class("program", "far") is method
        assert build("program", {"type": "far", "depth": 2}, "x").depth == 2
        with pytest.raises(ConfigError, match="from 1 to 3"):
            build("program", {"type": "far", "depth": 4}, "x")
        assert find_options("FarConfig") is method.Options

    @pytest.mark.parametrize(("name", "kind"), [("near", "program"), ("far", "mapping")])
    def test_that_says_another_name_or_kind_is_refused(
        self, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method = self._method(name, kind)
        monkeypatch.setattr(registry, "entry_points", lambda group: [_Entry("far", method)])
        with pytest.raises(UsageError, match="registered as program 'far'"):
            method_class("program", "far")

    def test_that_cannot_be_imported_is_named_with_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = EntryPoint("far", "no_such_module", "hf_reprogram.programs")
        monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
        with pytest.raises(UsageError, match="far = no_such_module of hf_reprogram.programs: .*ModuleNotFoundError"):
            method_class("program", "far")

    def test_cannot_take_the_place_of_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: [_Entry("prompt", self._method("prompt"))])
        assert method_class("program", "prompt").__module__ == "hf_reprogram.programs.prompt"


def test_asking_for_one_class_imports_one_file() -> None:
    code = (
        "import sys, hf_reprogram as hr; hr.PromptConfig;"
        "print([m for m in sys.modules if m.startswith('hf_reprogram.mappings.') or m == 'transformers'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_completion_offers_options_and_nothing_of_the_module_s_own() -> None:
    offered = set(dir(hf_reprogram))
    assert {"PromptConfig", "LatentFilmConfig", "LinearConfig", "select"} <= offered
    assert not {"Any", "import_module", "sys"} & offered
    assert {name for name in offered if not hasattr(hf_reprogram, name)} == set()
