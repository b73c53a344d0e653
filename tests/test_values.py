"""The value codec: what goes in comes out, what can't is refused, and the stored form doesn't change by accident."""

import enum
import math
import os
import subprocess
import sys
import types
import zoneinfo
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, computed_field

from holdfast.errors import Corrupt, HoldfastError, InvalidValue, MissingExtra, SchemaMismatch
from holdfast.values import FORM, MAX_DEPTH, Tagged, decode, encode, register

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
always = settings(derandomize=True, deadline=None)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a.items(), b.items(), strict=True))  # type: ignore[arg-type]
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))  # type: ignore[arg-type]
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)  # type: ignore[misc]
    if isinstance(a, datetime | time):
        return (a.replace(tzinfo=None), a.fold, a.utcoffset(), zone(a)) == (b.replace(tzinfo=None), b.fold, b.utcoffset(), zone(b))
    if isinstance(a, Tagged):
        return a.name == b.name and same(a.data, b.data)
    return repr(a) == repr(b)


def zone(moment: datetime | time) -> str | None:
    return getattr(moment.tzinfo, "key", None)


class Status(enum.Enum):
    OPEN = "open"
    PAID = ["list", "valued"]  # noqa: RUF012


class Rank(enum.IntEnum):
    LOW = 0
    HIGH = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Line:
    sku: str
    price: Decimal
    tags: tuple[str, ...] = ()


@dataclass
class Order:
    """Has no registered class in it, and is not registered itself."""

    id: int
    status: Status
    lines: list[Line] = field(default_factory=list[Line])
    total: Decimal = field(init=False, default=Decimal(0))


class User(BaseModel):
    name: str
    born: date | None = None
    rank: Rank = Rank.LOW


class Wallet:
    def __init__(self, coins: set[int]) -> None:
        self.coins = coins

    def to_dict(self) -> dict[str, Any]:
        return {"coins": self.coins}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Wallet":
        return cls(data["coins"])


class Point(NamedTuple):
    x: int
    y: int


# Round trips

text = st.text(st.characters(exclude_categories=["Cs"]))
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-3, seconds=7)), BERLIN, zoneinfo.ZoneInfo("Asia/Kathmandu")])
keys_and_elements = st.one_of(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | text | st.binary() | st.uuids() | st.dates(),
    st.floats(allow_nan=False) | st.decimals(allow_nan=False) | st.timedeltas(),
    st.datetimes(timezones=zones, allow_imaginary=True) | st.times(timezones=zones),
)
hashable = st.recursive(keys_and_elements, lambda inner: st.frozensets(inner, max_size=4) | st.tuples(inner, inner), max_leaves=6)
atoms = hashable | st.floats() | st.decimals(allow_nan=True) | st.builds(bytearray, st.binary())


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(text | st.just("$"), inner, max_size=5),
        st.dictionaries(hashable, inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(hashable, max_size=4),
    )


values = st.recursive(atoms, containers, max_leaves=15)


@always
@given(values)
def test_what_goes_in_comes_out(value: Any) -> None:
    data = encode(value)
    back = decode(data)
    assert same(back, value)
    assert encode(back) == data


kinds = st.sampled_from(["int", "float", "dict", "tuple", "set", "datetime", "time", "date", "decimal", "uuid", "bytes", "type", "no such"])


def json_containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["$", "$$", "", "type", "a"]), inner, max_size=3),
        st.tuples(kinds, inner).map(lambda tag: {"$": list(tag)}),
    )


json_atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text | kinds
json = st.recursive(json_atoms, json_containers, max_leaves=12)


@always
@given(json)
def test_plain_data_that_looks_like_a_tag_stays_plain(value: Any) -> None:
    assert same(decode(encode(value)), value)


@always
@given(json)
def test_any_json_is_a_value_or_an_error_of_ours(body: Any) -> None:
    try:
        value = decode(msgspec.json.encode([FORM, body]))
    except HoldfastError:
        return
    assert same(decode(encode(value)), value)


@always
@given(st.recursive(atoms, lambda inner: containers(inner) | st.builds(Tagged, text.map("other.{}".format), inner), max_leaves=12))
def test_a_tagged_value_encodes_to_the_bytes_it_came_from(value: Any) -> None:
    data = encode(value)
    assert same(decode(data), value)
    assert encode(decode(data)) == data


@pytest.mark.parametrize("value", [10**5000, -(10**5000), 2**63 - 1, 2**63, -(2**63), -(2**63) - 1], ids=hex)
def test_integers_of_any_size(value: int) -> None:
    assert decode(encode(value)) == value


def test_the_fold_decides_which_of_two_instants_it_is() -> None:
    twice = [datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=BERLIN) for fold in (0, 1)]
    assert [it.timestamp() for it in decode(encode(twice))] == [it.timestamp() for it in twice]


def test_another_tzinfo_is_kept_as_its_offset() -> None:
    class Odd(tzinfo):
        def utcoffset(self, dt: datetime | None, /) -> timedelta | None:
            return dt and timedelta(hours=2)

        def dst(self, dt: datetime | None, /) -> None:
            return None

    assert decode(encode(datetime(2026, 1, 2, tzinfo=Odd()))) == datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    with pytest.raises(InvalidValue, match=r"value: time whose zone gives no offset .* use zoneinfo\.ZoneInfo"):
        encode(time(1, tzinfo=Odd()))


def test_the_same_set_gives_the_same_bytes_in_every_process() -> None:
    code = "from holdfast.values import encode; print(encode({'b', 'a', 'ä', (1, 'c'), 2, None, 10**30}))"
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2", "3")
    ]
    assert len({run.stdout for run in runs}) == 1


# The stored form

SNAPSHOT: dict[bytes, object] = {
    b"[1,null]": None,
    b"[1,true]": True,
    b"[1,9223372036854775807]": 2**63 - 1,
    b'[1,{"$":["int","8000000000000000"]}]': 2**63,
    b'[1,{"$":["int","-100000000000000000"]}]': -(2**68),
    b"[1,1.0]": 1.0,
    b"[1,-0.0]": -0.0,
    b"[1,1e300]": 1e300,
    b'[1,{"$":["float","nan"]}]': math.nan,
    b'[1,{"$":["float","-inf"]}]': -math.inf,
    '[1,"a\\u0000\\"ä😀"]'.encode(): 'a\0"ä😀',
    b"[1,[1,[],{}]]": [1, [], {}],
    b'[1,{"b":1,"a":{"c":null}}]': {"b": 1, "a": {"c": None}},
    b'[1,{"$":["dict",[["$",["int","1"]]]]}]': {"$": ["int", "1"]},
    b'[1,{"$":["dict",[[1,"a"],["b",{"$":["tuple",[]]}],[null,2]]]}]': {1: "a", "b": (), None: 2},
    b'[1,{"$":["tuple",[1,{"$":["tuple",["a"]]}]]}]': (1, ("a",)),
    b'[1,{"$":["set",[1,10,2,{"$":["tuple",[3]]}]]}]': {10, 2, 1, (3,)},
    b'[1,{"$":["frozenset",["a","b"]]}]': frozenset("ba"),
    b'[1,{"$":["datetime","2026-01-02T03:04:05.000006"]}]': datetime(2026, 1, 2, 3, 4, 5, 6),
    b'[1,{"$":["datetime","2026-01-02T03:04:05+00:00"]}]': datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    b'[1,{"$":["datetime","2026-01-02T03:04:05-03:30"]}]': datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-3.5))),
    b'[1,{"$":["datetime",["2026-10-25T02:30:00","Europe/Berlin",1]]}]': datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    b'[1,{"$":["datetime",["2026-10-25T02:30:00",null,1]]}]': datetime(2026, 10, 25, 2, 30, fold=1),
    b'[1,{"$":["date","2026-01-02"]}]': date(2026, 1, 2),
    b'[1,{"$":["time","03:04:05"]}]': time(3, 4, 5),
    b'[1,{"$":["time",["03:04:00","Europe/Berlin",0]]}]': time(3, 4, tzinfo=BERLIN),
    b'[1,{"$":["timedelta",[-1,86399,5]]}]': timedelta(seconds=-1, microseconds=5),
    b'[1,{"$":["decimal","-1.50E+7"]}]': Decimal("-1.50E+7"),
    b'[1,{"$":["decimal","sNaN12"]}]': Decimal("sNaN12"),
    b'[1,{"$":["uuid","00000000-0000-0000-0000-00000000000a"]}]': UUID(int=10),
    b'[1,{"$":["bytes","AP8="]}]': b"\x00\xff",
    b'[1,{"$":["bytearray",""]}]': bytearray(),
    b'[1,{"$":["type",["gone.Order",{"id":7,"at":{"$":["date","2026-01-02"]}}]]}]': Tagged("gone.Order", {"id": 7, "at": date(2026, 1, 2)}),
}


@pytest.mark.parametrize(("data", "value"), SNAPSHOT.items(), ids=[data.decode() for data in SNAPSHOT])
def test_the_stored_form_stays_as_it_is(data: bytes, value: object) -> None:
    assert encode(value) == data
    assert same(decode(data), value)


DAMAGED = [
    b"",
    b"[1,",
    b"\xff",
    b"null",
    b"[1]",
    b"[1,2,3]",
    b'["1",2]',
    b"[true,2]",
    b'[1,"\xed\xa0\x80"]',
    b"[1,1e999]",
    b'[1,{"$":1}]',
    b'[1,{"$":["tuple"]}]',
    b'[1,{"$":["tuple",[]],"a":1}]',
    b'[1,{"$":["tuple","ab"]}]',
    b'[1,{"$":["complex",[1,2]]}]',
    b'[1,{"$":["type",["name"]]}]',
    b'[1,{"$":["date","2026-02-30"]}]',
    b'[1,{"$":["datetime",["2026-01-01T00:00:00","../../etc/passwd",0]]}]',
    b'[1,{"$":["decimal","one"]}]',
    b'[1,{"$":["timedelta",[1e300]]}]',
    b'[1,{"$":["bytes","A"]}]',
    b'[1,{"$":["bytes","AP*8="]}]',
    b'[1,{"$":["bytearray","AP*8="]}]',
    b'[1,{"$":["set",[[]]]}]',
    b'[1,{"$":["dict",[[[],1]]]}]',
    b"[1," + b"[" * 100_000 + b"]" * 100_000 + b"]",
    b'[1,{"a":{"$":["uuid","x"]}}]',
]


@pytest.mark.parametrize("data", DAMAGED, ids=lambda data: data.decode("latin-1")[:60])
def test_damaged_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="a stored"):
        decode(data)


def test_a_form_of_a_later_version_says_so() -> None:
    with pytest.raises(SchemaMismatch, match="has form 2, this Holdfast reads up to 1: upgrade holdfast"):
        decode(b'[2,{"new":1}]')


def test_a_zone_this_machine_does_not_know() -> None:
    with pytest.raises(MissingExtra, match=r"zone Mars/Olympus.*pip install tzdata"):
        decode(b'[1,{"$":["time",["00:00:00","Mars/Olympus",0]]}]')


# Refusals


class Name(str):
    __slots__ = ()


REFUSED: list[tuple[object, str]] = [
    ({"prefs": {"f": [1, 2, 3, len]}}, 'value["prefs"]["f"][3]: builtin_function_or_method has no stored form'),
    ([{"a": (1, object())}], 'value[0]["a"][1]: object has no stored form: convert it to plain data or register(object, encode='),
    ({1: {"a": {date(2026, 1, 2): sys}}}, 'value[1]["a"][datetime.date(2026, 1, 2)]: module has no stored form'),
    ((x for x in "ab"), "value: generator has no stored form"),
    (Order, "value: type has no stored form"),
    (memoryview(b""), "value: memoryview has no stored form"),
    (1j, "value: complex has no stored form"),
    (
        {"n": Counter("aab")},
        'value["n"]: collections.Counter would come back as a plain dict: convert it with dict(...) or register(Counter',
    ),
    (OrderedDict(a=1), "value: collections.OrderedDict would come back as a plain dict"),
    (defaultdict(list), "value: collections.defaultdict would come back as a plain dict"),
    ([Name("x")], "Name would come back as a plain str: convert it with str(...) or register(Name"),
    ({Name("x"): 1}, "Name would come back as a plain str"),
    (Point(1, 2), "Point would come back as a plain tuple"),
    (type("Ids", (list,), {})(), "Ids would come back as a plain list"),
    (type("Clock", (datetime,), {})(2026, 1, 1), "Clock would come back as a plain datetime"),
    (["ok", "a\ud800"], "value[1]: str with a lone surrogate at 1: replace it"),
    ({"\ud800": 1}, r"value['\ud800']: str with a lone surrogate"),
    ({float("nan"), float("nan")}, "value: two keys or elements that would be stored alike"),
    (types.MappingProxyType({}), "value: mappingproxy has no stored form"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_a_refusal_names_the_place_the_type_and_the_fix(value: object, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        encode(value)
    assert message in str(caught.value)


def nested(wrap: Callable[[object], object], levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS: dict[str, tuple[Callable[[object], object], int]] = {
    "list": (lambda it: [it], 1),
    "dict": (lambda it: {"a": it}, 1),
    "tuple": (lambda it: (it,), 2),
    "pairs": (lambda it: {1: it}, 2),
    "escaped": (lambda it: {"$": it}, 2),
    "frozenset": (lambda it: frozenset([it]), 2),
    "class": (lambda it: Tagged("other.It", {"it": it}), 2),
}


@pytest.mark.parametrize(("wrap", "cost"), WRAPS.values(), ids=WRAPS)
def test_depth_is_bounded_and_a_tag_counts_two(wrap: Callable[[object], object], cost: int) -> None:
    deepest = nested(wrap, MAX_DEPTH // cost)
    assert decode(encode(deepest)) == deepest
    with pytest.raises(InvalidValue, match="nested more than 200 levels deep, or contains itself"):
        encode(wrap(deepest))


def test_what_contains_itself_is_refused() -> None:
    cycle: dict[Any, Any] = {"list": []}
    cycle["list"].append({2: cycle})
    with pytest.raises(InvalidValue, match=r'^value\["list"\]\[0\]\[2\]\["list"\].*\.\.\..*: nested more than 200 levels deep'):
        encode(cycle)


def test_a_class_that_unfolds_for_ever_is_refused() -> None:
    @register
    class Endless:
        def to_dict(self) -> "Endless":
            return self

        @classmethod
        def from_dict(cls, data: object) -> "Endless":
            return cls()

    with pytest.raises(InvalidValue, match="contains itself"):
        encode([Endless()])


# Classes nobody registered

ORDER = Order(7, Status.PAID, [Line("a", Decimal("1.50"), ("x", "y"))])
UNREGISTERED = [Status.PAID, Rank.LOW, Access.READ | Access.WRITE, ORDER, User(name="Ada", rank=Rank.HIGH), Wallet({3, 1})]


@pytest.mark.parametrize("value", UNREGISTERED, ids=lambda value: type(value).__name__)
def test_an_unregistered_class_comes_back_tagged_and_unchanged(value: object) -> None:
    data = encode({"it": value})
    back = decode(data)["it"]
    assert type(back) is Tagged
    assert back.name == f"{__name__}.{type(value).__name__}"
    assert encode({"it": back}) == data


def test_tagged_holds_plain_data() -> None:
    line = Tagged(f"{__name__}.Line", {"sku": "a", "price": Decimal("1.50"), "tags": ("x", "y")})
    fields = {"id": 7, "status": Tagged(f"{__name__}.Status", "PAID"), "lines": [line], "total": Decimal(0)}
    assert decode(encode(ORDER)) == Tagged(f"{__name__}.Order", fields)


def test_tagged_is_hashable_and_equal_by_what_is_stored() -> None:
    assert {Tagged("a", {"n": math.nan}), Tagged("a", {"n": math.nan})} == {Tagged("a", {"n": math.nan})}
    assert Tagged("a", 1) != Tagged("a", True)
    assert Tagged("a", 1) != Tagged("b", 1)
    assert Tagged("a", 1) != 1
    with pytest.raises(AttributeError):
        Tagged("a", 1).name = "b"  # pyright: ignore[reportAttributeAccessIssue]


def test_as_builds_the_class_and_what_its_annotations_name() -> None:
    assert decode(encode(ORDER), as_=Order) == ORDER
    assert decode(encode([ORDER, ORDER]), as_=list[Order]) == [ORDER, ORDER]
    assert decode(encode(Status.PAID), as_=Status) is Status.PAID
    assert decode(encode(Access.READ | Access.WRITE), as_=Access) == Access.READ | Access.WRITE
    assert decode(encode(Wallet({1})), as_=Wallet).coins == {1}
    user = User(name="Ada", born=date(1815, 12, 10), rank=Rank.HIGH)
    assert decode(encode(user), as_=User) == user


def test_as_builds_a_class_that_has_moved() -> None:
    assert decode(encode(Tagged("old.place.Wallet", {"coins": {1}})), as_=Wallet).coins == {1}


def test_as_checks_the_type() -> None:
    not_a_class: Any = Literal["a"]
    assert decode(encode({"a": 1}), as_=dict) == {"a": 1}
    assert decode(encode(Tagged("gone.It", 1)), as_=Tagged) == Tagged("gone.It", 1)
    with pytest.raises(InvalidValue, match="as_ takes a class, or a container such as"):
        decode(b"[1,2]", as_=not_a_class)
    with pytest.raises(InvalidValue, match="the stored value is a dict, not a list"):
        decode(encode({"a": 1}), as_=list)
    with pytest.raises(InvalidValue, match=r"the stored value is a gone\.It, not a int"):
        decode(encode(Tagged("gone.It", 1)), as_=int)
    with pytest.raises(InvalidValue, match=r"what is stored as gone\.It doesn't fit .*Line .*unexpected keyword argument 'x'"):
        decode(encode(Tagged("gone.It", {"x": 1})), as_=Line)


# Registered classes


class Place(NamedTuple):
    x: int
    y: int


class Sku(str):
    __slots__ = ()


class Tally(Counter[str]):
    pass


class Right(enum.Flag):
    READ = 1
    WRITE = 2


register(Place, name="shop.Place")
register(Sku, name="shop.Sku", encode=str, decode=Sku)
register(Tally, name="shop.Tally", encode=dict, decode=Tally)
register(Right, name="shop.Right")


@register(name="shop.Size")
class Size(enum.StrEnum):
    S = "s"


@register
@dataclass(frozen=True, slots=True)
class Leaf:
    at: datetime
    pair: tuple[int, str]


@register(name="shop.Tree")
@dataclass
class Tree:
    leaf: Leaf
    size: Size
    status: Status
    double: float = field(init=False)
    stock: Any = None

    def __post_init__(self) -> None:
        self.double = 1.0


@register
class Pet(BaseModel):
    called: str = Field(alias="name")
    tags: set[str] = Field(default_factory=set[str], exclude=True)

    @computed_field
    @property
    def loud(self) -> str:
        return self.called.upper()


@register
class Dog(Pet):
    bark: Decimal


@register(name="shop.Owner")
class Owner(BaseModel, extra="allow"):
    pet: Pet
    rank: Rank


@register
class Names(RootModel[list[str]]):
    pass


@register
class Row(msgspec.Struct, frozen=True):
    cells: tuple[int, ...]


@register
class Bag:
    def __init__(self, *items: object) -> None:
        self.items = items

    def to_dict(self) -> dict[str, object]:
        return {"items": self.items}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Bag":
        return cls(*data["items"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bag) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)


LEAF = Leaf(datetime(2026, 1, 2, tzinfo=BERLIN), (1, "a"))
REGISTERED: list[object] = [
    Place(1, 2),
    Sku("Ada"),
    Right.READ | Right.WRITE,
    Tally("aab"),
    Size.S,
    LEAF,
    Tree(LEAF, Size.S, Status.OPEN, stock={LEAF: [Place(0, 0)]}),
    Dog(name="Rex", tags={"b", "a"}, bark=Decimal("1.0")),
    Owner.model_validate({"pet": Dog(name="Rex", bark=Decimal(1)), "rank": Rank.HIGH, "since": date(2026, 1, 2)}),
    Names(["a"]),
    Row((1, 2)),
    Bag(1, Bag(Size.S)),
    {Size.S: frozenset([Bag(1), Bag("1"), LEAF])},
]


@pytest.mark.parametrize("value", REGISTERED, ids=lambda value: type(value).__name__)
def test_a_registered_class_comes_back_as_itself(value: object) -> None:
    back = decode(encode([value]))[0]
    assert type(back) is type(value)
    assert back == value
    assert encode([back]) == encode([value])


def test_the_stored_form_of_a_registered_class() -> None:
    assert encode(Size.S) == b'[1,{"$":["type",["shop.Size","S"]]}]'
    assert encode(Right.READ) == b'[1,{"$":["type",["shop.Right","READ"]]}]'
    assert encode(Right.READ | Right.WRITE) == b'[1,{"$":["type",["shop.Right",3]]}]'
    assert encode(Place(1, 2)) == b'[1,{"$":["type",["shop.Place",{"$":["tuple",[1,2]]}]]}]'
    assert encode(Sku("x")) == b'[1,{"$":["type",["shop.Sku","x"]]}]'


def test_a_field_keeps_what_was_stored_whatever_post_init_does() -> None:
    tree = Tree(LEAF, Size.S, Status.PAID)
    tree.double = 2.5
    assert decode(encode(tree)).double == 2.5


def test_a_field_that_was_never_set_stays_unset() -> None:
    @register
    @dataclass
    class Lazy:
        result: int = field(init=False)

    assert not hasattr(decode(encode(Lazy())), "result")


def test_the_classes_a_registered_one_names_need_no_registration() -> None:
    back = decode(encode(Tree(LEAF, Size.S, Status.PAID, stock=Status.OPEN)))
    assert (back.status, back.stock) == (Status.PAID, Status.OPEN)


def test_a_nested_model_keeps_its_own_class() -> None:
    owner = Owner(pet=Dog(name="Rex", bark=Decimal("2.0")), rank=Rank.LOW)
    assert type(decode(encode(owner)).pet) is Dog


def test_a_stored_field_the_class_has_lost_is_an_error_that_says_what_to_do() -> None:
    data = b'[1,{"$":["type",["shop.Tree",{"gone":1}]]}]'
    with pytest.raises(InvalidValue, match=r"what is stored as shop\.Tree doesn't fit .*Tree \(.*\): register it with a decode="):
        decode(data)


def test_a_field_the_class_has_gained_takes_its_default() -> None:
    assert decode(encode(Tagged(f"{__name__}.Pet", {"called": "Rex"}))) == Pet(name="Rex")


def make(name: str) -> type[Any]:
    """A new class of that name in the module "made"."""

    class Made:
        def to_dict(self) -> dict[str, object]:
            return {}

        @classmethod
        def from_dict(cls, data: object) -> "Made":
            return cls()

    Made.__module__, Made.__qualname__, Made.__name__ = "made", name, name
    return Made


def test_a_taken_name_is_refused() -> None:
    register(make("First"), name="taken")
    with pytest.raises(InvalidValue, match=r"the name 'taken' is taken by made\.First: give made\.Second another with name="):
        register(make("Second"), name="taken")


def test_a_reloaded_class_takes_over_its_name() -> None:
    old, new = make("Reloaded"), make("Reloaded")
    assert register(register(old)) is old
    register(new)
    assert type(decode(encode(old()))) is new
    assert type(decode(encode(new()))) is new


def test_a_class_registered_under_a_new_name_is_still_read_under_the_old() -> None:
    cls = register(make("Renamed"), name="before")
    data = encode(cls())
    register(cls, name="after")
    assert type(decode(data)) is cls
    assert encode(cls()) == b'[1,{"$":["type",["after",{}]]}]'


def test_an_unregistered_class_never_passes_for_a_registered_one() -> None:
    register(make("Other"), name="made.Shadow")
    with pytest.raises(InvalidValue, match=r"value: made\.Shadow is the name made\.Other is registered under: register\(Shadow, name="):
        encode(make("Shadow")())


@pytest.mark.parametrize("cls", [int, dict, Tagged, object, type("Sub", (list,), {})])
def test_a_class_that_gives_no_way_to_store_it_can_not_be_registered(cls: type) -> None:
    with pytest.raises(InvalidValue, match="can't be registered like this: give encode= and decode="):
        register(cls)


def test_a_built_in_type_can_not_be_registered() -> None:
    with pytest.raises(InvalidValue, match=r"int can't be registered like this: .* a class of your own"):
        register(int, encode=str, decode=int)


def test_a_dataclass_that_its_fields_alone_can_not_build_is_refused() -> None:
    @dataclass
    class Sealed:
        key: InitVar[str]
        n: int = 0

    with pytest.raises(InvalidValue, match=r"Sealed has no stored form: .* register\(Sealed, encode=..., decode=...\)"):
        encode(Sealed("k"))
    register(Sealed, encode=lambda it: it.n, decode=lambda n: Sealed("k", n))
    assert decode(encode(Sealed("other", 3))) == Sealed("k", 3)


def test_pydantic_is_never_imported_by_the_codec() -> None:
    code = "import sys, holdfast.values as v; v.decode(v.encode([1, (2,)])); print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
