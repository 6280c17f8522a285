"""The list of nets that ``python -m examples.models`` prints."""

from examples import models
from examples.models import __main__ as program


def test_every_form_has_a_line(capsys, monkeypatch):
    monkeypatch.setattr(program, "count", lambda name, stem: (1_234_567, 8.5e9))
    program.main()
    explanation, header, *lines = capsys.readouterr().out.splitlines()
    assert "a multiply-add counts as two" in explanation
    assert header.split() == ["name", "stem", "image", "classes", "parameters", "GFLOPs"]
    forms = [(name, stem) for name in models.NAMES for stem in models.forms(name)]
    assert [tuple(line.split()[:2]) for line in lines] == forms
    assert "imagenet  224x224      1000    1,234,567    8.50" in lines[2]
    assert "cifar     32x32         100    1,234,567    8.50" in lines[0]


def test_a_multiply_add_counts_as_two_flops():
    parameters, flops = program.count("vgg11", "cifar")
    assert parameters == 9_277_284
    # These are the convolutions without the work on padding, and then norms and pools.
    sizes = ((32, 3, 64), (16, 64, 128), (8, 128, 256), (8, 256, 256), (4, 256, 512))
    sizes += ((4, 512, 512), (2, 512, 512), (2, 512, 512))
    exact = sum(2 * (3 * size - 2) ** 2 * inputs * outputs for size, inputs, outputs in sizes)
    assert exact < flops < 1.05 * exact
