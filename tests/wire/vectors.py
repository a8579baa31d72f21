"""Golden vectors: messages and the very bytes of their frames.

A vector is never changed; what is new gets one of its own.  They stand in
``docs/reference/wire.md`` as well.
"""

from typing import Final

from msgspec import Raw

from iommubus.completion import How
from iommubus.wire.messages import Message, Side
from iommubus.wire.messages.greeting import Bind, Bound, Bye, Descriptor, Draining, Hello, Ping, Pong, Welcome
from iommubus.wire.messages.publishing import (
    Answer,
    Ask,
    BeginResume,
    DemandChanged,
    EndResume,
    Publish,
    Published,
    PublishFailed,
)
from iommubus.wire.messages.queries import (
    Counters,
    Found,
    ListSpaces,
    ListSubscribers,
    Lookup,
    ObserverCounters,
    SpaceCounters,
    SpaceFound,
    SpaceGone,
    SpaceInfo,
    SpaceOpened,
    Spaces,
    Statistics,
    SubscriberCounters,
    SubscriberInfo,
    Subscribers,
    WaitSpace,
)
from iommubus.wire.messages.replies import Cancel, Done, Failure, Refused
from iommubus.wire.messages.rows import DevIotlbUnmapRow, LostRow, MapRow, Run, UnmapRow, WatchedRun
from iommubus.wire.messages.spaces import (
    AddMemory,
    Attach,
    CloseEndpoint,
    CloseSpace,
    CreateEndpoint,
    CreateSpace,
    Detach,
    MemoryAdded,
    MemoryRemoved,
    RemoveMemory,
    SpaceCreated,
)
from iommubus.wire.messages.subscribing import (
    Ack,
    AckWanted,
    Deliver,
    Ended,
    Fail,
    Fenced,
    Leave,
    ReplayFailed,
    RunFence,
    Subscribe,
    Subscribed,
    Translate,
    Translated,
    Using,
)
from iommubus.wire.messages.syncing import (
    Drain,
    Fence,
    FenceJudged,
    MapFailure,
    Missing,
    Outcome,
    SpaceEpoch,
    Sync,
    Synced,
    SyncRefused,
)
from iommubus.wire.messages.values import MemoryName, Piece, Range
from iommubus.wire.messages.watching import Observe, Observed, Observing, Unobserve
from tests.wire.packed import packed

CLIENT, DAEMON = Side.CLIENT, Side.DAEMON
LAST: Final = 2**64 - 1
RAM: Final = MemoryName("ram", 1, 0x4000_0000)
FULL: Final = Failure("OSError", "[Errno 28] No space left on device", Raw(b"\x92\x1c\xb7No space left on device"))
INFO: Final = SpaceInfo("vtd0", 5, 0x1000, 2**48 - 1, 3, 3, 17, 42, "qemu")
COUNTERS: Final = SubscriberCounters(3, 20, 22, 0, 9, 8, 1, current=True, pinned=2)

VECTORS: Final[list[tuple[Side, Message, str]]] = [
    (CLIENT, Hello(1, 1, "qemu", 1, 2), "0b000000 96010101a471656d750102"),
    (CLIENT, Hello(1, 1), "07000000 96010101a00000"),
    (
        DAEMON,
        Welcome(1, 3, 7, 12, 500_000, bytes(range(16)), 1_500_000),
        "22000000 98020103070cce0007a120c410000102030405060708090a0b0c0d0e0fce0016e360",
    ),
    (CLIENT, Ping(1), "03000000 920301"),
    (DAEMON, Ping(LAST), "0b000000 9203cfffffffffffffffff"),
    (DAEMON, Pong(1), "03000000 920401"),
    (CLIENT, Pong(LAST), "0b000000 9204cfffffffffffffffff"),
    (CLIENT, Bye(), "04000000 9305a0c0"),
    (
        DAEMON,
        Bye("bad bytes", Failure("FrameTooLarge", "too long", Raw(b"\x92\xcd\x10\x01\xcd\x10\x00"))),
        "2b000000 9305a962616420627974657393ad4672616d65546f6f4c61726765a8746f6f206c6f6e6792cd1001cd1000",
    ),
    (
        DAEMON,
        Draining("stopped by an operator", 10_000_000),
        "1e000000 9306b673746f7070656420627920616e206f70657261746f72ce00989680",
    ),
    (CLIENT, Bind(bytes(range(16))), "14000000 9207c410000102030405060708090a0b0c0d0e0f"),
    (DAEMON, Bound(), "02000000 9108"),
    (CLIENT, Descriptor(RAM), "0d000000 920993a372616d01ce40000000"),
    (DAEMON, Descriptor(RAM), "0d000000 920993a372616d01ce40000000"),
    (CLIENT, Done(1), "03000000 920a01"),
    (DAEMON, Done(2), "03000000 920a02"),
    (
        CLIENT,
        Refused(1, FULL),
        (
            "4a000000 930b0193a74f534572726f72d9225b4572726e6f2032385d204e6f207370616365206c656674206f6e206465766"
            "96365921cb74e6f207370616365206c656674206f6e20646576696365"
        ),
    ),
    (
        DAEMON,
        Refused(2, Failure("NameTaken", "taken", Raw(b"\x91\xa4vtd0"))),
        "1a000000 930b0293a94e616d6554616b656ea574616b656e91a476746430",
    ),
    (DAEMON, Refused(2, Failure("BusClosed", "closed")), "16000000 930b0293a9427573436c6f736564a6636c6f73656490"),
    (CLIENT, Cancel(3), "03000000 920c03"),
    (DAEMON, Cancel(4), "03000000 920c04"),
    (
        CLIENT,
        CreateSpace(
            4,
            "vtd0",
            0x1000,
            2**48 - 1,
            [Range(0xFEE0_0000, 0xFEEF_FFFF)],
            7,
            "split",
            asks_demand=True,
            answers=True,
            answer_us=250_000,
            epoch=5,
        ),
        "2f000000 9c1404a476746430cd1000cf0000ffffffffffff9192cefee00000cefeefffff07a573706c6974c3c3ce0003d09005",
    ),
    (
        CLIENT,
        CreateSpace(4, "vtd0", 1, LAST, [], 3),
        "23000000 9c1404a47674643001cfffffffffffffffff9003a6726566757365c2c2ce000f424000",
    ),
    (DAEMON, SpaceCreated(4, 5, resumed=True), "05000000 94150405c3"),
    (CLIENT, CloseSpace(5, "vtd0", 5), "09000000 941605a47674643005"),
    (CLIENT, CreateEndpoint(6, "00:03.0", resume=True), "0c000000 941706a730303a30332e30c3"),
    (CLIENT, CloseEndpoint(7, "00:03.0"), "0b000000 931807a730303a30332e30"),
    (CLIENT, Attach(8, "00:03.0", "vtd0", 5), "11000000 951908a730303a30332e30a47674643005"),
    (CLIENT, Detach(9, "00:03.0"), "0b000000 931a09a730303a30332e30"),
    (CLIENT, AddMemory(10, "ram", 0x4000_0000, descriptor=True, generation=1), "0e000000 961b0aa372616dce40000000c301"),
    (DAEMON, MemoryAdded(10, 1), "04000000 931c0a01"),
    (CLIENT, RemoveMemory(11, RAM), "0e000000 931d0b93a372616d01ce40000000"),
    (DAEMON, MemoryRemoved(RAM), "0d000000 921e93a372616d01ce40000000"),
    (
        CLIENT,
        Publish(
            "vtd0",
            5,
            3,
            packed(
                UnmapRow(41, 0x1000, 0x1FFF),
                MapRow(42, 0x1000, 0x4FFF, 0x8000_0000, 3),
                MapRow(43, LAST - 0xFFF, LAST, 0x2000, 1, 1),
                DevIotlbUnmapRow(44, 0, LAST),
            ),
            [RAM],
            more=True,
        ),
        (
            "57000000 9728a476746430050394940129cd1000cd1fff97022acd1000cd4fffce80000000030097022bcffffffffffffff"
            "000cfffffffffffffffffcd2000010194042c00cfffffffffffffffff9193a372616d01ce40000000c3"
        ),
    ),
    (
        CLIENT,
        Publish("vtd0", 5, 1, packed(UnmapRow(1, 0, LAST))),
        "19000000 9728a47674643005019194010100cfffffffffffffffff90c2",
    ),
    (DAEMON, Published("vtd0", 5, 3), "09000000 9429a4767464300503"),
    (
        DAEMON,
        PublishFailed("vtd0", 5, 3, 1, Failure("BadPermission", "no access", Raw(b"\x91\x00"))),
        "25000000 962aa47674643005030193ad4261645065726d697373696f6ea96e6f206163636573739100",
    ),
    (CLIENT, BeginResume("vtd0", 5), "08000000 932ba47674643005"),
    (CLIENT, EndResume(12, "vtd0", 5), "09000000 942c0ca47674643005"),
    (DAEMON, DemandChanged(13, "vtd0", 5, 1, 3), "0b000000 962d0da476746430050103"),
    (DAEMON, Ask(14, "smmu0", 6, 0xABCD_E000, 2), "10000000 962e0ea5736d6d753006ceabcde00002"),
    (
        CLIENT,
        Answer(14, Piece(0xABCD_E000, 0xABCD_EFFF, 0x1000, 3, RAM)),
        "1d000000 932f0e95ceabcde000ceabcdefffcd10000393a372616d01ce40000000",
    ),
    (CLIENT, Answer(14, None), "04000000 932f0ec0"),
    (
        CLIENT,
        Subscribe(
            15,
            ["00:03.0", "00:04.0"],
            3,
            [Range(0, 0xFEDF_FFFF), Range(0xFEF0_0000, LAST)],
            4096,
            "exit",
            has_on_fence=True,
            granule=0x1000,
            pow2=True,
            exact=True,
            limit=65535,
            name="vfio",
            replaces=21,
            holder=4711,
        ),
        (
            "46000000 9f3c0f92a730303a30332e30a730303a30342e3003929200cefedfffff92cefef00000cfffffffffffffffffcd1"
            "000a465786974c3cd1000c3c3cdffffa47666696f15cd1267"
        ),
    ),
    (
        CLIENT,
        Subscribe(15, ["vtd0"], 1, [Range(0, LAST)]),
        "25000000 9f3c0f91a47674643001919200cfffffffffffffffff00a56c65617365c201c2c2c0a00000",
    ),
    (DAEMON, Subscribed(15, 22, "vfio", 2_000_000, 1 << 22), "13000000 963d0f16a47666696fce001e8480ce00400000"),
    (DAEMON, Subscribed(15, 22, "vfio"), "0b000000 963d0f16a47666696fc000"),
    (
        DAEMON,
        Deliver(
            22,
            1,
            [
                Run("vtd0", packed(UnmapRow(42, 0, LAST))),
                Run(
                    "vtd1", packed(MapRow(7, 0x1000, 0x1FFF, 0x3000, 2, 1), DevIotlbUnmapRow(8, 0x1000, 0x1FFF)), [RAM]
                ),
            ],
            more=False,
            current=True,
            end=True,
            prompt=True,
            fails=3,
        ),
        (
            "49000000 993e16019293a4767464309194012a00cfffffffffffffffff9093a47674643192970207cd1000cd1fffcd30000"
            "201940408cd1000cd1fff9193a372616d01ce40000000c2c3c3c303"
        ),
    ),
    (DAEMON, Deliver(22, 2, []), "0a000000 993e160290c2c2c2c200"),
    (DAEMON, AckWanted(22), "03000000 924916"),
    (CLIENT, Ack(22, 1), "04000000 933f1601"),
    (
        CLIENT,
        Fail(22, 1, 1, FULL),
        (
            "4c000000 954016010193a74f534572726f72d9225b4572726e6f2032385d204e6f207370616365206c656674206f6e20646"
            "576696365921cb74e6f207370616365206c656674206f6e20646576696365"
        ),
    ),
    (CLIENT, Translate(16, 22, 0x1234, 1), "08000000 95411016cd123401"),
    (DAEMON, Translated(16, Piece(0x1000, 0x1FFF, 0x3000, 1), 42, 9), "11000000 95421095cd1000cd1fffcd300001c02a09"),
    (
        CLIENT,
        Leave(17, 22, clean=False, reason="its block was left by KeyError"),
        "24000000 95431116c2be69747320626c6f636b20776173206c656674206279204b65794572726f72",
    ),
    (DAEMON, RunFence(18, 22), "04000000 93441216"),
    (DAEMON, Fenced(22, "its lease has run out"), "19000000 934516b5697473206c65617365206861732072756e206f7574"),
    (DAEMON, Ended(22), "03000000 924616"),
    (CLIENT, Using(22, 3), "04000000 93471603"),
    (
        DAEMON,
        ReplayFailed(22, [MapFailure("vfio", "vtd0", 0x1000, 0x1FFF, FULL, 2)]),
        (
            "5d000000 9348169196a47666696fa476746430cd1000cd1fff93a74f534572726f72d9225b4572726e6f2032385d204e6f2"
            "07370616365206c656674206f6e20646576696365921cb74e6f207370616365206c656674206f6e2064657669636502"
        ),
    ),
    (
        CLIENT,
        Sync(19, 5_000_000, ["vtd*"], [SpaceEpoch("smmu0", 6)]),
        "17000000 955013ce004c4b4091a47674642a9192a5736d6d753006",
    ),
    (CLIENT, Sync(19, 0), "06000000 955013009090"),
    (
        DAEMON,
        Synced(
            19,
            1500,
            [
                Outcome("vfio", "vtd0", How.ACKNOWLEDGED, 1200),
                Outcome("vhost", "vtd0", How.LEFT, 0),
                Outcome("mirror", "vtd0", How.STOPPED, 1500),
            ],
            more=True,
        ),
        (
            "4d000000 955113cd05dc9394a47666696fa476746430ac61636b6e6f776c6564676564cd04b094a576686f7374a47674643"
            "0a46c6566740094a66d6972726f72a476746430a773746f70706564cd05dcc3"
        ),
    ),
    (
        DAEMON,
        SyncRefused(
            19,
            [Missing("vfio", "vtd0", "has not acknowledged", [Piece(0, 0xFFF, 0x5000, 3)], [Range(1, 2)], FULL)],
            [MapFailure("vhost", "vtd0", 0, 0xFFF, FULL)],
            truncated=True,
        ),
        (
            "d4000000 9552139196a47666696fa476746430b4686173206e6f742061636b6e6f776c6564676564919500cd0fffcd50000"
            "3c09192010293a74f534572726f72d9225b4572726e6f2032385d204e6f207370616365206c656674206f6e2064657669636"
            "5921cb74e6f207370616365206c656674206f6e206465766963659196a576686f7374a47674643000cd0fff93a74f5345727"
            "26f72d9225b4572726e6f2032385d204e6f207370616365206c656674206f6e20646576696365921cb74e6f2073706163652"
            "06c656674206f6e2064657669636501c3"
        ),
    ),
    (CLIENT, Drain(20, "vtd0", 5), "09000000 945314a47674643005"),
    (CLIENT, Fence(21, "vtd0", "vfio"), "0d000000 945415a476746430a47666696f"),
    (DAEMON, FenceJudged(21, proven=False), "04000000 935515c2"),
    (CLIENT, Observe(22, ["vtd*"], 3, 100), "0b000000 95641691a47674642a0364"),
    (DAEMON, Observing(22, 31), "04000000 9365161f"),
    (
        DAEMON,
        Observed(
            31,
            [WatchedRun("vtd0", packed(LostRow(40, 12), MapRow(41, 0, 0xFFF, 0, 1, 1), UnmapRow(42, 0, 0xFFF)), [RAM])],
            end=True,
        ),
        "2d000000 94661f9193a476746430939308280c97022900cd0fff00010194012a00cd0fff9193a372616d01ce40000000c3",
    ),
    (CLIENT, Unobserve(23, 31), "04000000 9367171f"),
    (CLIENT, ListSpaces(24, ["vtd?"], follow=True), "0a000000 946e1891a47674643fc3"),
    (
        DAEMON,
        Spaces(24, [INFO], more=True),
        "21000000 946f189199a47674643005cd1000cf0000ffffffffffff0303112aa471656d75c3",
    ),
    (DAEMON, SpaceOpened(INFO), "1e000000 927099a47674643005cd1000cf0000ffffffffffff0303112aa471656d75"),
    (DAEMON, SpaceGone("vtd0", 5), "08000000 9371a47674643005"),
    (CLIENT, WaitSpace(25, "vtd0"), "08000000 937219a476746430"),
    (DAEMON, SpaceFound(25, INFO), "1f000000 93731999a47674643005cd1000cf0000ffffffffffff0303112aa471656d75"),
    (CLIENT, ListSubscribers(26, ["vtd0"]), "09000000 93741a91a476746430"),
    (
        DAEMON,
        Subscribers(
            26,
            [
                SubscriberInfo(
                    22, "vfio", "qemu", "vtd0", ["00:03.0"], 3, [Range(0, LAST)], "lease", 1_500_000, "late", COUNTERS
                )
            ],
            more=True,
        ),
        (
            "46000000 94751a919b16a47666696fa471656d75a47674643091a730303a30332e3003919200cfffffffffffffffffa56c6"
            "5617365ce0016e360a46c6174659903141600090801c302c3"
        ),
    ),
    (CLIENT, Lookup(27, "vtd0", 0x1234), "0b000000 94761ba476746430cd1234"),
    (
        DAEMON,
        Found(27, Piece(0x1000, 0x1FFF, 0x3000, 3, RAM), 42),
        "1a000000 94771b95cd1000cd1fffcd30000393a372616d01ce400000002a",
    ),
    (DAEMON, Found(27, None, 42), "05000000 94771bc02a"),
    (CLIENT, Statistics(28, ["*"]), "06000000 93781c91a12a"),
    (
        DAEMON,
        Counters(
            28,
            [
                SpaceCounters(
                    "vtd0", 5, 17, 42, 20, 22, 0, 3, 1, 8, 1, {"asked": 2}, {"vfio": COUNTERS}, ["mirror"], ["vhost"]
                )
            ],
            [ObserverCounters(0, 30, 12)],
            more=True,
        ),
        (
            "41000000 95791c919fa47674643005112a1416000301080181a561736b65640281a47666696f9903141600090801c30291a"
            "66d6972726f7291a576686f73749193001e0cc3"
        ),
    ),
]
"""Who says it, the message, and its frame in hexadecimal: the header, then the payload."""
