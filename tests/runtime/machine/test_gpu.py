"""What nvidia-smi and a Jetson print is read."""

from fewstep.runtime.machine.gpu import Gpu, gpu_of, parse_gpus, parse_jetson


def test_what_nvidia_smi_prints_is_read() -> None:
    text = "NVIDIA RTX A4000, 8.6, 550.54, 16376, 15000\nOrin (nvgpu), 8.7, 540.4.0, [N/A], [N/A]\nbroken\n"
    assert parse_gpus(text) == (
        Gpu("NVIDIA RTX A4000", "sm86", "550.54", 16376, 15000),
        Gpu("Orin (nvgpu)", "sm87", "540.4.0", None, None),
    )


def test_what_a_jetson_says_of_itself_is_read() -> None:
    jetson = parse_jetson("NVIDIA Jetson AGX Orin", "# R36 (release), REVISION: 4.3, GCID: 1", "")
    assert (jetson.l4t, jetson.jetpack) == ("36.4.3", "6.x") and "stay on 10.x" in jetson.note
    assert gpu_of(jetson).sm == "sm87" and gpu_of(jetson).cuda == 12
    without = parse_jetson("NVIDIA Jetson AGX Orin", "# R39 (release), REVISION: 2.0, GCID: 1", "")  # JetPack 7.2
    assert (without.l4t, without.jetpack) == ("39.2.0", "7.x")
    assert parse_jetson("Thor", "# R38 (release), REVISION: 2.0, GCID: 1", "7.2.2").jetpack == "7.2.2"
