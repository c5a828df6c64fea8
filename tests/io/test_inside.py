"""Names from outside stay below their folder."""

import pytest

from pipeline.io.inside import check_files_inside, path_inside


@pytest.mark.parametrize("name", ["a.jpg", "deep/a.jpg", "./a.jpg", "..a", "not-there/b.jpg"])
def test_a_relative_name_is_a_path_in_the_folder(tmp_path, name):
    assert path_inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", ".", "a\0b", None, 3])
def test_any_other_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="path"):
        path_inside(tmp_path, name)


def test_a_link_may_lead_to_the_folder_but_not_out_of_it(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "given").symlink_to("folder")
    (tmp_path / "folder" / "out").symlink_to(tmp_path)
    (tmp_path / "folder" / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "folder" / "circle").symlink_to("circle")
    (tmp_path / "folder" / "a").symlink_to("b")
    assert path_inside(tmp_path / "given", "a") == tmp_path / "given" / "a"
    for name in ("out", "out/x", "nowhere", "circle"):
        with pytest.raises(ValueError, match=r"leads out of|can't be reached"):
            path_inside(tmp_path / "given", name)
    with pytest.raises(ValueError, match="leads out of"):
        check_files_inside(tmp_path / "folder", tmp_path / "folder")
