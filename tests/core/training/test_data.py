"""Training data is found, read in the shapes people have it in, and refused with file and line where it is wrong."""

import json
import shutil
from pathlib import Path

import pytest

from core.errors import InvalidInput
from core.training.data import Example, data_report, find_data, read_examples, split_examples
from core.workspace import Workspace

REPOSITORY = Path(__file__).parents[3]
STARTER = sorted((REPOSITORY / "configs" / "starter_data").glob("*.jsonl"))


def chat(*texts, **more):
    messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]
    return {"messages": messages, **more}


def lines(*records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def example(question, answer="an answer", line=1):
    return Example(({"role": "user", "content": question}, {"role": "assistant", "content": answer}), line)


@pytest.fixture
def write(tmp_path):
    def put(content, name="set.jsonl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


# -- reading -------------------------------------------------------------------------------------------------------


def test_chat_lines(write):
    found = read_examples(write(lines(chat("q1", "a1"), chat("q2", "a2", "q3", "a3"))))
    assert [item.line for item in found] == [1, 2]
    assert found[1].messages == (
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "a2"},
        {"role": "user", "content": "q3"},
        {"role": "assistant", "content": "a3"},
    )


def test_alpaca_as_list_and_as_lines(write):
    records = [
        {"instruction": "Translate", "input": "Guten Tag", "output": "Good day"},
        {"instruction": "Say hello", "input": "", "output": "Hello", "system": "Be kind."},
    ]
    as_list = read_examples(write(json.dumps(records, indent=2), "a.json"))
    assert as_list[0].messages[0]["content"] == "Translate\n\nGuten Tag"
    assert as_list[1].messages[0]["content"] == "Say hello"
    assert as_list[1].system == "Be kind."
    assert [item.line for item in as_list] == [2, 7]
    as_lines = read_examples(write(lines(*records)))
    assert [item.messages for item in as_lines] == [item.messages for item in as_list]


def test_sharegpt(write):
    record = {
        "id": "x",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ],
    }
    found = read_examples(write(json.dumps([record, record]), "s.json"))
    assert found[0].messages == example("q", "a").messages
    assert found[0].system == "Be brief."


def test_the_owners_old_conversations(write):
    record = {
        "conversation_id": "5f0c",
        "domain": "healthcare",
        "scenario": "check-up",
        "primary_emotion": "fear",
        "turns": [
            {"role": "user", "content": "I worry", "emotion": "fear", "intent": "support"},
            {"role": "assistant", "content": "That is hard.", "domain": "healthcare", "response_pattern": "empathy"},
        ],
        "metadata": {"quality_score": 0.85},
    }
    found = read_examples(write(json.dumps([record, record], indent=1), "healthcare_train.json"))
    assert found[0].messages == example("I worry", "That is hard.").messages


def test_byte_order_mark_carriage_returns_empty_lines_and_line_separators(write):
    text = "\ufeff" + lines(chat("q\u20281", "a"), chat("q2", "a")).replace("\n", "\r\n\r\n")
    found = read_examples(write(text))
    assert [item.line for item in found] == [1, 3]
    assert found[0].messages[0]["content"] == "q\u20281"


GOOD = chat("q", "a")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{not json", "not JSON: Expecting property name"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        ("1" * 5000, "not JSON: Exceeds the limit"),
        (7, "an example must be a JSON object, this is a number"),
        ({"text": "hello"}, "none of 'messages', 'conversations', 'turns' or 'instruction' is in it (it has 'text')"),
        ({}, "(it has nothing)"),
        ({"messages": []}, "'messages' must be a list of at least one"),
        ({"messages": "hello"}, "'messages' must be a list of at least one"),
        ({"messages": ["hello"]}, "message 1 must be an object, this is text"),
        ({"messages": [{"content": "q"}]}, "message 1 has no 'role'"),
        ({"messages": [{"role": "user"}]}, "message 1 has no 'content'"),
        (chat("q", ""), "the content of message 2 is empty"),
        (chat("q", " \n"), "the content of message 2 is empty"),
        (chat("q", None), "the content of message 2 must be text, this is null"),
        (chat("q", ["a"]), "the content of message 2 must be text, this is a list"),
        ({"messages": [{"role": "tool", "content": "q"}]}, "message 1 has the unknown role 'tool'"),
        ({"messages": [{"role": ["user"], "content": "q"}]}, "message 1 has the unknown role"),
        (chat("q", "a", "q"), "it ends on the user's message"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "it starts with the assistant"),
        ({"messages": [{"role": "system", "content": "s"}]}, "it holds a system message and nothing else"),
        ({"messages": [*GOOD["messages"], {"role": "system", "content": "s"}]}, "a system message may only come first"),
        ({"messages": [GOOD["messages"][0]] * 2}, "two user messages follow each other"),
        ({"instruction": "do"}, "'instruction' is there but no 'output'"),
        ({"instruction": "do", "output": ""}, "'output' is empty"),
        ({"instruction": "do", "output": "x", "history": [["a", "b"]]}, "'history' is not read"),
        ({"conversations": [{"from": "human"}]}, "message 1 has no 'value'"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "unknown from 'alien'"),
        ({"turns": [{"role": "user", "content": ""}]}, "the content of message 1 is empty"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "half of a surrogate pair"),
    ],
)
def test_a_fault_names_file_and_line(write, record, said):
    text = record if isinstance(record, str) else json.dumps(record)
    path = write(lines(GOOD) + text + "\n" + lines(GOOD))
    with pytest.raises(InvalidInput) as raised:
        read_examples(path)
    assert raised.value.message.startswith(f"{path}, line 2: ")
    assert said in raised.value.message


def test_all_faulty_lines_are_counted(write):
    path = write(lines(GOOD, {}, {}, GOOD, {}))
    with pytest.raises(InvalidInput, match=r"line 2: .*\(and 2 more faults in this file\)"):
        read_examples(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"messages": []},\n{}]', "element 1, line 1: 'messages' must be a list"),
        ('[\n{"instruction": "a", "output": "b"},\n\n {"output": "b"}]', "element 2, line 4: none of"),
        ('[\n{"instruction": "a"\n "output": "b"}]', "element 1, line 3: not JSON: Expecting ',' delimiter"),
        ('[\n{"instruction": "a", "output": "b"}\n', "element 1, line 2: not JSON: a comma or the closing bracket"),
        ('[\n{"instruction": "a", "output": "b"},\n', "element 2, line 3: not JSON: Expecting value"),
        ('[\n{"instruction": "a", "output": "b"}\n]\n{}', "line 4: something follows the closing bracket"),
        ("[" * 100_000, "element 1, line 1: not JSON: nested too deeply"),
    ],
)
def test_a_fault_in_a_list_names_the_element(write, text, said):
    path = write(text, "set.json")
    with pytest.raises(InvalidInput) as raised:
        read_examples(path)
    assert raised.value.message.startswith(f"{path}, {said}")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"a": 1}\n{"b": "caf\xe9"}\n', "line 2: not UTF-8 (byte 0xe9)"),
        ("x\n".encode("utf-16"), "line 1: not UTF-8 but UTF-16"),
        (b"", "is empty: at least 2 are needed"),
        (b"\n \r\n", "is empty: at least 2"),
        (b"[]", "is empty: at least 2"),
        (lines(GOOD).encode(), "holds a single example: at least 2"),
    ],
)
def test_files_that_cannot_be_used(write, raw, said):
    with pytest.raises(InvalidInput) as raised:
        read_examples(write(raw))
    assert said in raised.value.message


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        read_examples(tmp_path)


# -- splitting -----------------------------------------------------------------------------------------------------


def test_a_split_is_the_same_for_the_same_seed_and_loses_nothing():
    examples = [example(f"question {n}", line=n) for n in range(1, 51)]
    train, held = split_examples(examples, 7)
    assert (train, held) == split_examples(examples, 7)
    assert held != split_examples(examples, 8)[1]
    assert len(held) == 10
    assert sorted([*train, *held], key=lambda item: item.line) == examples
    assert [item.line for item in held] == sorted(item.line for item in held)


def test_lines_moved_do_not_change_what_is_held_out():
    examples = [example(f"question {n}", line=n) for n in range(50)]
    questions = {item.messages[0]["content"] for item in split_examples(examples, 7)[1]}
    assert {item.messages[0]["content"] for item in split_examples(examples[::-1], 7)[1]} == questions


def test_the_same_question_is_never_on_both_sides():
    examples = [example(f"Question  {n % 10}" if n % 2 else f"question {n % 10}", f"answer {n}", n) for n in range(40)]
    train, held = split_examples(examples, 7)

    def asked(part):
        return {" ".join(item.messages[0]["content"].lower().split()) for item in part}

    assert not asked(train) & asked(held)
    assert train
    assert held


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (3, 1), (4, 2), (9, 2), (10, 2), (20, 4)])
def test_small_sets(count, held_out):
    train, held = split_examples([example(f"q{n}", line=n) for n in range(count)], 1)
    assert (len(train), len(held)) == (count - held_out, held_out)


def test_one_question_asked_often_leaves_the_other_to_hold_out():
    examples = [*(example("often", f"a{n}", n) for n in range(8)), *(example("rare", f"b{n}", 8 + n) for n in range(3))]
    train, held = split_examples(examples, 1)
    assert {item.messages[0]["content"] for item in held} == {"rare"}
    assert len(train) == 8


def test_what_cannot_be_split():
    with pytest.raises(InvalidInput, match="0 examples"):
        split_examples([], 1)
    with pytest.raises(InvalidInput, match="1 example cannot"):
        split_examples([example("q")], 1)
    with pytest.raises(InvalidInput, match="all 3 examples ask the same question"):
        split_examples([example("q"), example("Q"), example(" q ")], 1)
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        split_examples([example("q"), example("p")], 1, 1.0)


# -- finding and describing ----------------------------------------------------------------------------------------


def test_ones_own_data_comes_before_the_starter_data(tmp_path):
    workspace = Workspace(tmp_path)
    with pytest.raises(InvalidInput) as raised:
        find_data(workspace, "music")
    assert "data/music.jsonl, data/music.json, configs/starter_data/music.jsonl" in raised.value.message
    assert '"messages"' in (raised.value.hint or "")
    starter = workspace.configs / "starter_data" / "music.jsonl"
    starter.parent.mkdir(parents=True)
    starter.touch()
    assert find_data(workspace, "music") == starter
    workspace.data.mkdir()
    own = workspace.data / "music.json"
    own.touch()
    assert find_data(workspace, "music") == own
    (workspace.data / "music.jsonl").touch()
    with pytest.raises(InvalidInput, match=r"two data files, data/music.jsonl and data/music.json"):
        find_data(workspace, "music")


@pytest.mark.parametrize("name", ["../secret", "a/b", "", "Music", "a" * 65])
def test_only_a_domain_name_finds_data(tmp_path, name):
    with pytest.raises(InvalidInput, match="is not a domain name"):
        find_data(Workspace(tmp_path), name)


def test_a_report_tells_repeats_and_filler():
    examples = [
        example("How are you?", "Fine. Efficiency up by 101 %.", 1),
        example("how  are you?", "fine. efficiency up by 101 %.", 2),
        example("And now?", "Better still, thanks. Efficiency up by 101 %.", 3),
        Example(example("Why?", "Because of the rain.").messages, 4, "Be brief."),
    ]
    report = data_report(examples)
    assert (report.examples, report.answers, report.duplicates, report.duplicate_rate) == (4, 4, 1, 0.25)
    assert report.repeated_answer_rate == 0.25
    assert (report.common_ending, report.common_ending_rate) == ("Efficiency up by 101 %.", 0.5)
    assert report.mean_question_words == pytest.approx(9 / 4)
    assert report.mean_answer_words == pytest.approx(24 / 4)
    assert report.longest_example_words == 10
    assert report.own_system == 1
    with pytest.raises(InvalidInput, match="no examples"):
        data_report([])


@pytest.mark.parametrize("path", STARTER, ids=lambda path: path.stem)
def test_the_starter_data_can_be_trained_on(path, tmp_path):
    workspace = Workspace(tmp_path)
    copy = workspace.configs / "starter_data" / path.name
    copy.parent.mkdir(parents=True)
    shutil.copyfile(path, copy)
    examples = read_examples(find_data(workspace, path.stem))
    train, held = split_examples(examples, 7)
    assert len(train) >= 40
    assert len(held) >= 10
    assert data_report(examples).duplicate_rate == 0
