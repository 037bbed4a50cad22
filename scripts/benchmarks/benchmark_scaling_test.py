import pytest

from scripts.benchmarks.benchmark_scaling import Plan, efficiency, main, step_seconds


def test_one_device_sends_nothing():
    assert step_seconds(Plan(), 1)["network"] == 0
    assert efficiency(Plan(), 1) == 1


def test_ring_sends_nearly_twice_the_gradients():
    plan = Plan(gradient_bytes=1e9, link=1e9, latency=0.0, images_per_second=10, batch=10)
    assert step_seconds(plan, 2)["network"] == pytest.approx(1.0)
    assert step_seconds(plan, 1000)["network"] == pytest.approx(1.998)
    assert efficiency(plan, 2) == pytest.approx(0.5)
    assert efficiency(plan._replace(overlap=1.0), 2) == pytest.approx(1.0)


def test_input_of_a_host_limits_its_devices():
    plan = Plan(images_per_second=1000, batch=100, link=1e15, latency=0.0, host_input=4000)
    assert efficiency(plan, 4) == pytest.approx(1.0, rel=1e-3)
    assert efficiency(plan, 8) == pytest.approx(0.5)
    assert efficiency(plan, 64) == pytest.approx(0.5)


def test_plan_is_printed_with_its_assumptions(capsys):
    main(["--plan", "--link=1e9"])
    output = capsys.readouterr().out
    assert "link = 1e+09" in output
    assert [line.split()[0] for line in output.splitlines()[-4:]] == ["1", "8", "64", "1024"]
