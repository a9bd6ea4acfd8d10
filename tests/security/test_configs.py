"""Labeling configs from outside: bounded in length and depth, without entities, and never gone through twice."""

from __future__ import annotations

import pytest

from campaign.label_studio.controls import mask_controls
from label_config.configs import parse
from label_config.documents import MAX_DEPTH, ConfigError, parse_xml
from ml_backend.errors import InputError
from ml_backend.masks.regions import LabelMap

IMAGE = '<Image name="i" value="$image"/>'
NESTED = '<BrushLabels name="b" toName="i"><Label value="x"/>'


def nested(depth: int) -> str:
    return f"<View>{IMAGE}{NESTED * depth}{'</BrushLabels>' * depth}</View>"


ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x"}">' for n in range(30))


@pytest.mark.parametrize(
    "xml",
    [
        nested(3600),  # 218 kB, which took 40 s
        nested(MAX_DEPTH),
        f"<!DOCTYPE a [{ENTITIES}]><View>&e29;</View>",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><View>&x;</View>',
        f"<View>{IMAGE}{'<a/>' * 300_000}</View>",
        "<View>\ud800</View>",
        "<View>\x00</View>",
        None,
        7,
    ],
    ids=lambda xml: str(xml)[:20].encode("ascii", "replace").decode(),
)
def test_every_reader_refuses_with_one_line(xml):
    for read, kind in (
        (LabelMap.parse, InputError),
        (mask_controls, InputError),
        (lambda x: parse("a", x), ConfigError),
    ):
        with pytest.raises(kind, match="labeling config") as error:
            read(xml)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_deep_config_is_read():
    assert parse_xml(nested(MAX_DEPTH - 3)).tag == "View"
    assert LabelMap.parse(nested(20)).find("x").label == "x"


def test_many_controls_and_labels_are_looked_up_and_not_searched():
    labels = "".join(f'<Label value="c{n}"/>' for n in range(9000))
    controls = mask_controls(f'<View>{IMAGE}<BrushLabels name="b" toName="i">{labels}</BrushLabels></View>')
    assert {controls.brush(name) for name in controls.classes} == {"b"}
    with pytest.raises(InputError, match="a BrushLabels control with the label other"):
        controls.brush("other")
    pairs = "".join(f'<Image name="i{n}" value="$v{n}"/><Labels name="n{n}" toName="i{n}"/>' for n in range(5000))
    assert mask_controls(f"<View>{pairs}</View>").image_name == "i0"
