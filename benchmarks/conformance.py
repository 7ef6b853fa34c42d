"""transformers' common suite of model tests over plait's classes: `benchmarks/conformance.py FOLDER [SHAPE ...]`.

FOLDER holds transformers' own tests (`test_modeling_common.py`): `tests/` of its source package (`pip download
--no-binary :all: --no-deps transformers`) or of a checkout of the version that is installed. The suite needs the
packages `parameterized` and `pytest`. Mixins of subfolders that a source package leaves out (generation, exporters) are
named and not run. Prints `shape class: N passed, N failed, N skipped`, the failures, and with --reasons why tests were
skipped.
"""

import argparse
import importlib
import os
import sys
import types
import unittest
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import transformers
from conformance_shapes import COMMON, SHAPES, Shape, Tester
from transformers.models.auto import modeling_auto

import plait

PACKAGE = "transformers_tests"  # the name under which FOLDER is imported
# what the suite imports from subfolders: a source package leaves them out. (The last is read for plain configs only.)
SUBFOLDERS: dict[str, tuple[str, Any]] = {
    "exporters.test_export": ("ExportTesterMixin", type("ExportTesterMixin", (), {})),
    "generation.test_utils": ("GenerationTesterMixin", type("GenerationTesterMixin", (), {})),
    "utils.test_configuration_utils": ("config_common_kwargs", {}),
}
MAPPINGS = {"MODEL_MAPPING_NAMES": "PlaitModel", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "PlaitForCausalLM"}


def import_suite(folder: Path) -> tuple[Any, Any, list[str]]:
    """Imports the common suite; returns its models' and configs' modules, and the mixins that the folder lacks."""
    if not (folder / "test_modeling_common.py").is_file():
        raise SystemExit(f"{folder} holds no test_modeling_common.py: name the tests/ folder of transformers' source")
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    absent = []
    for name, (member, replacement) in SUBFOLDERS.items():
        parent, module = name.split(".")
        if (folder / parent / f"{module}.py").is_file():
            continue
        absent.append(member)
        for stub in (f"{PACKAGE}.{parent}", f"{PACKAGE}.{name}"):
            sys.modules.setdefault(stub, types.ModuleType(stub))
        setattr(sys.modules[f"{PACKAGE}.{name}"], member, replacement)
    models = importlib.import_module(f"{PACKAGE}.test_modeling_common")
    with mock.patch("transformers.utils.direct_transformers_import", return_value=transformers):  # a checkout's own
        configs = importlib.import_module(f"{PACKAGE}.test_configuration_common")
    return models, configs, absent


def build_case(name: str, shape: Shape, models: Any, configs: Any, absent: list[str]) -> type[unittest.TestCase]:
    """Builds the test case of one shape: the suite's mixins with a tester of the shape."""
    tester = Tester(shape)
    has_text = not {"text_config", "decoder_config"}.isdisjoint(shape.parts)

    def prepare(self: Any, inputs: dict[str, Any], kind: type, return_labels: bool = False) -> dict[str, Any]:
        copied = models.copy.deepcopy(inputs)
        return tester.add_labels(copied) if return_labels else copied

    def test_config(self: Any) -> None:
        checks = configs.ConfigTester(self, plait.PlaitConfig, has_text_modality=False, common_properties=[])
        checks.run_common_tests()
        wanted = ["hidden_size", "num_attention_heads", "num_hidden_layers", *(["vocab_size"] if has_text else [])]
        lacking = [size for size in wanted if not hasattr(tester.get_config(), size)]
        assert not lacking, f"the config has no {', '.join(lacking)}"

    members: dict[str, Any] = {
        "all_model_classes": (shape.kind,),
        "is_encoder_decoder": "target" in shape.inputs,
        "_is_composite": True,
        "has_attentions": not any(test in shape.skips for test in ("test_attention_outputs",)),
        "test_resize_embeddings": has_text,
        "model_tester": tester,
        "_prepare_for_class": prepare,
        "test_config": test_config,
    }
    for start, reason in (COMMON | shape.skips).items():
        for test in (name for name in dir(models.ModelTesterMixin) if name.startswith(start)):
            members[test] = unittest.skip(reason)(lambda self: None)
    bases = [models.ModelTesterMixin, unittest.TestCase]
    generates = shape.kind.can_generate()  # pyright: ignore[reportAttributeAccessIssue]
    if generates and "GenerationTesterMixin" not in absent:
        bases.insert(1, models.GenerationTesterMixin)
    elif generates:
        members["test_generation_tester_mixin_inheritance"] = unittest.skip("GenerationTesterMixin is not in FOLDER")(
            lambda self: None
        )
    return type(name, tuple(bases), members)


def run_shape(case: type[unittest.TestCase], pattern: str) -> unittest.TestResult:
    """Runs the tests of one shape whose name contains `pattern`."""
    loader = unittest.TestLoader()
    names = [test for test in loader.getTestCaseNames(case) if pattern in test]
    result = unittest.TestResult()
    for test in names:
        unittest.TestSuite([case(test)]).run(result)
    return result


def print_result(name: str, shape: Shape, result: unittest.TestResult, reasons: bool) -> int:
    """Prints one line for a shape, then its failures (and reasons); returns the number of failures."""
    wrong = {}
    for test, trace in [*result.failures, *result.errors]:
        whole = getattr(test, "test_case", test)  # of a subtest, the test
        wrong[whole.id().rsplit(".", 1)[-1]] = trace
    skipped = len(result.skipped)
    passed = result.testsRun - len(wrong) - skipped
    print(f"{name} {shape.kind.__name__}: {passed} passed, {len(wrong)} failed, {skipped} skipped", flush=True)
    for test, trace in wrong.items():
        print(f"  FAILED {test}: {trace.strip().splitlines()[-1][:300]}")
    if reasons:
        for reason, count in Counter(reason for _, reason in result.skipped).most_common():
            print(f"  skipped {count}: {reason}")
    return len(wrong)


def main() -> int:
    """Runs the suite over the shapes; returns 1 if any test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("TRANSFORMERS_TESTS"))
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(SHAPES)} (default: all)")
    parser.add_argument("--test", default="", help="run only the tests whose name contains this")
    parser.add_argument("--reasons", action="store_true", help="print why tests were skipped")
    parser.add_argument("--trace", action="store_true", help="print the traceback of every failure")
    options = parser.parse_args()
    if options.folder is None:
        raise SystemExit("name the tests/ folder of transformers' source, as FOLDER or in TRANSFORMERS_TESTS")
    for mapping, kind in MAPPINGS.items():  # by these tables the suite tells a base model from one with a loss
        getattr(modeling_auto, mapping)["plait"] = kind
    models, configs, absent = import_suite(Path(options.folder))
    print(f"not in {options.folder}, hence not run: {', '.join(absent)}" if absent else "the whole suite")
    failed = 0
    for name in options.shapes or SHAPES:
        case = build_case(name, SHAPES[name], models, configs, absent)
        result = run_shape(case, options.test)
        failed += print_result(name, SHAPES[name], result, options.reasons)
        if options.trace:
            for _, trace in [*result.failures, *result.errors]:
                print(trace)
    print(f"{failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
