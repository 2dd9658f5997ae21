"""Settings that differ, in words."""

from bigbatch_ue.reporting.differences import describe_differences


def test_only_what_differs_is_named_in_full() -> None:
    first = {"target": {"model": "resnet18", "fit": {"epochs": 12, "lr": 0.1}}, "ranks": 1}
    second = {"target": {"model": "resnet18", "fit": {"epochs": 60, "lr": 0.1}}, "ranks": 2}
    assert describe_differences([first, second]) == [
        "target.fit.epochs=12, ranks=1",
        "target.fit.epochs=60, ranks=2",
    ]
    assert describe_differences([first]) == describe_differences([{}]) == [""]
    assert describe_differences([first, {}]) == ["", "settings not recorded"]


def test_a_setting_that_one_lacks_tells_it_from_others() -> None:
    lacking, having = {"target": {"size": 64}}, {"target": {"size": 64, "args": {"channels": [8]}}}
    assert describe_differences([lacking, having]) == ["", "target.args.channels=[8]"]
