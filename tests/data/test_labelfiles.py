"""Label files as others write them: the whole file decides, and what cannot be right is an error of one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nestforge.data.labelfiles import read_labels
from nestforge.data.labels import (
    ClassNames,
    Label,
    format_label,
    parse_label,
    read_artifact_labels,
    read_imagenet_labels,
)
from nestforge.errors import DataError

TENCH, SHARK, CRANE = Label("tench"), Label("shark"), Label("crane")
NAMES = (TENCH, SHARK, CRANE)
WITH_IDS = (
    Label("tench, Tinca tinca", "n01440764"),
    Label("shark", "n01484850"),
    Label("crane", "n02012849"),
)

TENCH_ID, SHARK_ID, CRANE_ID = (Label(str(label.wnid), label.wnid) for label in WITH_IDS)

ACCEPTED: dict[str, tuple[str, tuple[Label, ...]]] = {
    "names.txt": ("tench\nshark\ncrane\n", NAMES),
    "no_last_line_end.txt": ("tench\nshark\ncrane", NAMES),
    "blank_lines.txt": ("\n\ntench\n\nshark\n  \ncrane\n\n\n", NAMES),
    "windows.txt": ("\ufefftench\r\nshark\r\ncrane\r\n", NAMES),
    "old_mac.txt": ("tench\rshark\rcrane\r", NAMES),
    "trailing_spaces.txt": ("tench  \n shark\t\ncrane\n", NAMES),
    "line_separator.txt": ("tench\u2028Tinca\ncrane\x0b1\n", (Label("tench Tinca"), Label("crane 1"))),
    "synset_words.txt": ("n01440764 tench, Tinca tinca\nn01484850 shark\nn02012849 crane\n", WITH_IDS),
    "tabs.txt": ("n01440764\ttench, Tinca tinca\nn01484850\tshark\nn02012849\tcrane\n", WITH_IDS),
    "ids_alone.txt": ("n01440764\nn01484850\n", (Label("n01440764"), Label("n01484850"))),
    "short_ids.txt": ("n01\tone\nn02\ttwo words\n", (Label("one", "n01"), Label("two words", "n02"))),
    "colons.txt": ("0: tench\n1: shark\n2: crane\n", NAMES),
    "colons_no_space.txt": ("0:tench\n1:shark\n2:crane\n", NAMES),
    "spaces.txt": ("0 tench\n1 shark\n2 crane\n", NAMES),
    "padded.txt": ("000 tench\n001 shark\n002 crane\n", NAMES),
    "commas.txt": ('0,tench\n1,"shark"\n2,crane\n', NAMES),
    "index_tab.txt": ("0\ttench\n1\tshark\n2\tcrane\n", NAMES),
    "numbered_list.txt": ("1. tench\n2. shark\n3. crane\n", NAMES),
    "from_one.txt": ("1 tench\n2 shark\n3 crane\n", NAMES),
    "any_order.txt": ("2: crane\n0: tench\n1: shark\n", NAMES),
    "index_last.txt": ("crane,2\ntench,0\nshark,1\n", NAMES),
    "index_id_name.txt": ("0 n01440764 tench, Tinca tinca\n2 n02012849 crane\n1 n01484850 shark\n", WITH_IDS),
    "id_index_name.txt": ("n02012849 3 crane\nn01440764 1 tench, Tinca tinca\nn01484850 2 shark\n", WITH_IDS),
    "id_index.txt": ("n02012849 1\nn01440764 0\n", (TENCH_ID, CRANE_ID)),
    "one_line.txt": ("0 tench\n", (TENCH,)),
    # names that begin or end with what could be an index or an id
    "seas.txt": ("7 seas\n3D printer\n12 monkeys\n", (Label("7 seas"), Label("3D printer"), Label("12 monkeys"))),
    "seas_first.txt": ("1 fish\n2 fish\nred fish\n", (Label("1 fish"), Label("2 fish"), Label("red fish"))),
    "fish.txt": ("1 fish\n2 fish\n", (Label("1 fish"), Label("2 fish"))),
    "digits.txt": ("0\n1\n2\n", (Label("0"), Label("1"), Label("2"))),
    "mnist.txt": ("0 - zero\n1 - one\n2 - two\n", (Label("0 - zero"), Label("1 - one"), Label("2 - two"))),
    "birds.txt": ("001.Albatross\n002.Auklet\n", (Label("001.Albatross"), Label("002.Auklet"))),
    "numbered_birds.txt": ("1 001.Albatross\n2 002.Auklet\n", (Label("001.Albatross"), Label("002.Auklet"))),
    "planes.txt": ("class 0\nclass 1\n", (Label("class 0"), Label("class 1"))),
    "times.txt": ("5,000 meters\n10,000 meters\n", (Label("5,000 meters"), Label("10,000 meters"))),
    "n_words.txt": ("n95 mask\nn01440764x\nnail\n", (Label("n95 mask"), Label("n01440764x"), Label("nail"))),
    "one_id_among_names.txt": ("n01440764 tench\nshark\n", (Label("n01440764 tench"), Label("shark"))),
    "commas_in_names.txt": ("tench, Tinca\ncrane, bird\n", (Label("tench, Tinca"), Label("crane, bird"))),
    # tables
    "header.csv": ("index,name\n0,tench\n1,shark\n2,crane\n", NAMES),
    "header_order.csv": (
        "class_id,wnid,label\n2,n02012849,crane\n0,n01440764,tench, Tinca tinca\n1,n01484850,shark\n",
        WITH_IDS,
    ),
    "quoted.csv": ('wnid,name\nn01440764,"tench, Tinca tinca"\nn01484850,shark\nn02012849,crane\n', WITH_IDS),
    "other_header.csv": ("ClassId,SignName\n0,tench\n1,shark\n2,crane\n", NAMES),
    "semicolons.csv": ("Id;Name\n0;tench\n1;shark\n2;crane\n", NAMES),
    "tabs.tsv": ("name\tid\ntench\t0\nshark\t1\ncrane\t2\n", NAMES),
    "ids_only.csv": ("id,synset\n0,n01440764\n1,n01484850\n", (TENCH_ID, SHARK_ID)),
    # JSON, and what Python prints
    "list.json": (json.dumps(["tench", "shark", "crane"]), NAMES),
    "list_as.txt": (json.dumps(["tench", "shark", "crane"], indent=1), NAMES),
    "pairs.json": (json.dumps([[label.wnid, label.name] for label in WITH_IDS]), WITH_IDS),
    "map.json": (json.dumps({"0": "tench", "2": "crane", "1": "shark"}), NAMES),
    "keras.json": (json.dumps({str(i): [label.wnid, label.name] for i, label in enumerate(WITH_IDS)}), WITH_IDS),
    "from_one.json": (json.dumps({"1": "tench", "2": "shark", "3": "crane"}), NAMES),
    "config.json": (
        json.dumps({"id2label": {"0": "tench", "1": "shark", "2": "crane"}, "label2id": {"tench": 0}, "x": ["y"]}),
        NAMES,
    ),
    "label2id.json": (json.dumps({"crane": 2, "tench": 0, "shark": 1}), NAMES),
    "label2id_text.json": (json.dumps({"crane": "2", "tench": "0", "shark": "1"}), NAMES),
    "categories.json": (json.dumps({"categories": ["tench", "shark", "crane"]}), NAMES),
    "objects.json": (json.dumps([{"id": place, "name": NAMES[place].name} for place in (2, 0, 1)]), NAMES),
    "by_id.json": (json.dumps({label.wnid: [str(i), label.name] for i, label in enumerate(WITH_IDS)}), WITH_IDS),
    "python_dict.txt": ("{0: 'tench',\n 1: \"shark\",\n 2: 'crane'}\n", NAMES),
    "python_list.txt": ("['tench', 'shark', 'crane']", NAMES),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_accepted(name: str, tmp_path: Path) -> None:
    text, expected = ACCEPTED[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    found = read_labels(path)
    assert found == expected
    assert [parse_label(format_label(label)) for label in found] == list(found)


MANY = [f"{index}: name {index}" for index in range(40)]
WNIDS = [f"n{index:08d} name" for index in range(40)]
REFUSED = {
    "empty.txt": (b"", "is empty"),
    "blank.txt": (b" \n\t\n\r\n", "is empty"),
    "utf16.txt": ("tench\ncrane\n".encode("utf-16"), "UTF-16"),
    "utf16_unmarked.txt": ("tench\ncrane\n".encode("utf-16-le"), "UTF-16"),
    "latin1.txt": ("façade\n".encode("latin-1"), "not UTF-8"),
    "index_missing.txt": (b"0: a\n1: b\n3: d\n", "index 2 is missing"),
    "index_twice.txt": (b"0: a\n1: b\n1: d\n", "index 1 is there twice"),
    "index_missing_spaces.txt": ("\n".join(MANY[:7] + MANY[8:]).replace(":", "").encode(), "index 7 is missing"),
    "no_index_in_one.txt": ("\n".join([*MANY[:7], "seven", *MANY[8:]]).encode(), r"line 8, 'seven', has no index"),
    "no_id_in_one.txt": ("\n".join([*WNIDS[:7], "seven", *WNIDS[8:]]).encode(), r"line 8, 'seven', has no WordNet id"),
    "no_name.txt": (b"0: a\n1:\n2: c\n", "class 1 has no name"),
    "id_twice.txt": (b"n01440764 a\nn01440764 b\n", "the id n01440764 names two classes"),
    "short_row.csv": (b"index,name\n0,a\n1\n", "line 3 has 1 field"),
    "no_names.csv": (b"id,index\n0,0\n1,1\n", "hold no names"),
    "index_twice.csv": (b"index,name\n0,a\n0,b\n", "index 0 is there twice"),
    "labels.yaml": (b"names:\n  0: a\n", "this format is not read"),
    "map.pbtxt": (b'item {\n id: 1\n name: "a"\n}\n', "this format is not read"),
    "broken.json": (b'["a", "b"', "not valid JSON"),
    "text.json": (b"tench\n", "not valid JSON"),
    "number.json": (b"3", "a list of names"),
    "null_entry.json": (b'["a", null]', "entry 1 is no name"),
    "empty_entry.json": (b'["a", " "]', "class 1 has no name"),
    "key_twice.json": (b'{"0": "a", "0": "b"}', "the key '0' is there twice"),
    "key_twice.txt": (b"{0: 'a', 0: 'b'}", "is there twice"),
    "gap.json": (b'{"0": "a", "2": "b"}', "index 1 is missing"),
    "value_twice.json": (b'{"a": 0, "b": 0}', "index 0 is there twice"),
    "no_order.json": (b'{"n01440764": "tench", "n01484850": "shark"}', "a map has no order"),
    "no_map.json": (b'{"a": "b"}', "neither from index to name"),
    "empty_list.json": (b"[]", "is empty"),
    "deep.json": (b"[" * 100_000 + b"]" * 100_000, "deep|not valid JSON"),
    "code.txt": (b"[__import__('os').getcwd()]", "not valid JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_text_that_utf8_cannot_hold_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "surrogate.json"
    path.write_bytes(b'["a\\ud800", "b"]')
    assert [label.name.encode() for label in read_labels(path)] == [b"a?", b"b"]


def test_artifacts_labels_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Names that look like another format's lines come out of an artifact as they went in."""
    names = (Label("0: a"), Label("1: b"), Label("n01440764 x"), Label("[y]"), Label("2 z", "n01440764"))
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{format_label(label)}\n" for label in names), encoding="utf-8")
    assert read_artifact_labels(path) == names


def test_folders_are_found_under_every_usual_spelling() -> None:
    labels = (Label("tench, Tinca tinca", "n01440764"), Label("night snake"), Label("Café"), Label("t-shirt"))
    names = ClassNames(labels)
    spellings = {
        0: ["n01440764", "tench, Tinca tinca", "tench", "Tench", "n01440764-tench", "n01440764_tench", "0", "000"],
        1: ["night snake", "night_snake", "Night Snake", "night-snake", "NIGHT_SNAKE", "1"],
        2: ["Café", "Cafe\u0301", "café", "cafe\u0301"],
        3: ["t-shirt", "T_shirt", "t shirt"],
    }
    for index, spelled in spellings.items():
        assert {name: names.find(name) for name in spelled} == dict.fromkeys(spelled, index)
    for name in ("tenches", "Cafe", "4", "-1", "1e0", "", "n01440765", "²"):
        assert names.find(name) is None


def test_numbers_are_names_where_labels_are_numbers() -> None:
    names = ClassNames([Label(str(number)) for number in range(1, 11)])
    assert [names.find(name) for name in ("1", "01", "10", "0", "11")] == [0, 0, 9, None, None]
    names = ClassNames([Label("7 seas"), Label("12 monkeys")])
    assert [names.find(name) for name in ("7 seas", "0", "1", "7", "2")] == [0, 0, 1, None, None]


def test_what_means_two_classes_is_not_found() -> None:
    names = ClassNames(read_imagenet_labels())
    assert names.find("crane") is None
    assert names.is_ambiguous("crane")
    assert names.is_ambiguous("Crane")
    assert names.find("n03126707") == 517
    exact = ClassNames([Label("Crane"), Label("crane")])
    assert [exact.find(name) for name in ("Crane", "crane", "CRANE")] == [0, 1, None]
