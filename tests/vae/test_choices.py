"""Every option of the autoencoders that is a word out of a few refuses any other word."""

import dataclasses
import importlib
import pkgutil
import typing

import pytest

import vae
from vae.choices import check_choices

FREE_TEXTS = {"LossConfig.weights_dir"}  # a folder


def text_options():
    """(dataclass, name of the option) of every text option in the room."""
    found = {}
    for module in pkgutil.walk_packages(vae.__path__, "vae."):
        for schema in vars(importlib.import_module(module.name)).values():
            if isinstance(schema, type) and dataclasses.is_dataclass(schema):
                for name, kind in typing.get_type_hints(schema).items():
                    if kind is str:
                        found[f"{schema.__name__}.{name}"] = (schema, name)
    return {label: option for label, option in found.items() if label not in FREE_TEXTS}


OPTIONS = text_options()


@pytest.mark.parametrize("label", OPTIONS)
def test_an_unknown_word_is_refused(label):
    schema, name = OPTIONS[label]
    message = rf"^vae\.([a-z_]+\.)*{name} is 'nonsense', expected one of [a-z_]+, [a-z_, ]+$"
    with pytest.raises(ValueError, match=message):
        schema(**{name: "nonsense"})


def test_the_table_is_not_empty():
    assert {"DecoVaeConfig.keyframe_mode", "PlainVaeConfig.bottleneck", "AutoencoderConfig.name"} <= OPTIONS.keys()


def test_a_word_of_the_list_is_taken():
    @dataclasses.dataclass
    class Fruit:
        kind: str = "apple"

    check_choices(Fruit(), "basket", kind=("apple", "pear"))
    with pytest.raises(ValueError, match="basket.kind is 'plum', expected one of apple, pear"):
        check_choices(Fruit("plum"), "basket", kind=("apple", "pear"))
