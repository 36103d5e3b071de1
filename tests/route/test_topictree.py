"""The tree of topic names against a plain list of them."""

from hypothesis import given
from hypothesis import strategies as st

from broker.route.topictree import TopicTree
from broker.wire.topics import matches

LEVEL = st.sampled_from(["", "a", "b", "$a", "$"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTER = st.builds(
    lambda levels, last: "/".join((*levels, last)),
    st.lists(LEVEL | st.just("+"), max_size=4),
    LEVEL | st.sampled_from("+#"),
).filter(bool)


@given(st.dictionaries(TOPIC, st.integers(), max_size=12), FILTER)
def test_matches_as_the_filter_does(topics: dict[str, int], topic_filter: str) -> None:
    """§4.7, parent level of '#' and hidden '$' topics [MQTT-4.7.2-1] included; nothing comes twice."""
    tree = TopicTree[int]()
    for topic, value in topics.items():
        tree.add(topic.encode(), value)
    expected = [value for topic, value in topics.items() if matches(topic_filter, topic)]
    assert sorted(tree.match(topic_filter.encode())) == sorted(expected)


@given(st.lists(st.tuples(st.booleans(), TOPIC), max_size=30))
def test_what_is_removed_leaves_nothing_behind(steps: list[tuple[bool, str]]) -> None:
    """Adding and removing in any order, unknown topics too: the tree holds what a dict would, and ends empty."""
    tree, model = TopicTree[int](), dict[str, int]()
    for number, (add, topic) in enumerate(steps):
        if add:
            tree.add(topic.encode(), number)
            model[topic] = number
        else:
            tree.remove(topic.encode())
            model.pop(topic, None)
        everything = [*tree.match(b"#"), *tree.match(b"$/#"), *tree.match(b"$a/#")]
        assert sorted(everything) == sorted(model.values())
        nodes = {tuple(t.split("/")[: depth + 1]) for t in model for depth in range(t.count("/") + 1)}
        assert tree.nodes == len(nodes)
        known = {("/".join(levels)) for levels in nodes}
        assert tree.lacks(topic.encode()) == sum(
            "/".join(topic.split("/")[: depth + 1]) not in known for depth in range(topic.count("/") + 1)
        )
    for topic in model:
        tree.remove(topic.encode())
    assert tree._root == {}


def test_a_topic_is_replaced() -> None:
    tree = TopicTree[int]()
    tree.add(b"a/b", 1)
    tree.add(b"a/b", 2)
    tree.add(b"a", 3)
    assert list(tree.match(b"a/b")) == [2]
    tree.remove(b"a")
    assert list(tree.match(b"a/#")) == [2]
    tree.remove(b"a/b/c")
    tree.remove(b"x")
    assert list(tree.match(b"#")) == [2]
