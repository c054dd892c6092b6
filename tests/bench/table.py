#!/usr/bin/env python3
"""One table of what the benchmarks measured beside what they must reach.

usage: table.py [--smoke] CORE.json RPC.json MIRROR.json STORE.json STATE.json QEMU.json OUT.json

Prints the table, writes it with the raw figures to OUT.json, and exits with 1
when a figure misses its target (never with --smoke: small sizes say nothing).
"""
import json
import sys

OWN, MAP, LINEAR = "iovad", "std::map", "linear"
# What, against whom, at how many live mappings (None: all measured), times as
# fast at least.
CORE_TARGETS = [
    ("find IOVA", MAP, None, 2), ("find GPA", MAP, None, 2), ("find HVA", MAP, None, 2),
    ("unmap random", MAP, None, 2.5), ("allocate + map", MAP, None, 2), ("churn", MAP, None, 2.5),
    ("allocate + map", LINEAR, 100_000, 1000), ("find HVA", LINEAR, 100_000, 1000),
    ("churn", LINEAR, 100_000, 300),
    ("translate", MAP, 1_000_000, 8),
]
MAX_BYTES_A_MAPPING = 160
# Name in the RPC benchmark's figures, what it is, "most" or "least", target.
RPC_TARGETS = [
    ("map_to_echo", "unary Map p50 / echo p50", "most", 1.3),
    ("stream_updates_server_ns_per_op", "StreamUpdates: server ns an operation", "most", 1000),
    ("stream_updates_to_echo", "StreamUpdates operations/s / echo entries/s", "least", 0.05),
    ("kept_map_to_map", "unary Map p50, state kept / ephemeral", "most", 1.25),
    ("kept_stream_to_stream", "StreamUpdates operations/s, state kept / ephemeral", "least", 0.5),
    ("watched_map_to_map", "Map p50 with 1,000 watchers / none", "most", 1.5),
    ("serialised_to_revisions", "revisions serialised / revisions", "most", 1),
    ("kept_stream_server_ns_per_op", "StreamUpdates, state kept: server ns an operation", "most",
     2000),
]
# The same, of the mirror and of the library for C.
MIRROR_TARGETS = [
    ("translate_to_find", "mirror: translate GPA / the core's find GPA, 100,000 live", "most", 1.3),
    ("c_iovec_gpa_to_find", "libiovad.so: iovec of 16 by GPA, a segment / the same", "most", 2),
    ("c_iovec_hva_to_find", "libiovad.so: iovec of 16 by HVA, a segment / the same", "most", 2),
    ("c_map_to_map", "libiovad.so: Map p50 / the C++ client's", "most", 1.05),
    ("changes_per_s", "mirror: changes/s that were asked for, in hundreds", "least", 49_000),
    ("lag_p99_ms", "mirror: ms behind the sending of an Update, p99", "most", 20),
]
# The same, of the store and of the daemon's state.
STORE_TARGETS = [
    ("bytes a mapping, fresh", "store: bytes a mapping, fresh", "most", 200),
    ("bytes a mapping of file, churned, 1 at a time",
     "store: bytes a mapping, each replaced 10 times", "most", 400),
    ("bytes a mapping of file, churned, 50 at a time", "the same, 50 at a time", "most", 400),
    ("growth of the file in the second half, 1 at a time",
     "store: growth in the second half of that", "most", 1.03),
    ("growth of the file in the second half, 50 at a time", "the same, 50 at a time", "most",
     1.03),
]
STATE_TARGETS = [
    ("restart_s", "restart with 1,000,000 mappings until serving, s", "most", 2),
    ("restart_to_read", "the same / cat of its files", "most", 20),
    ("export_mappings_per_s", "ExportSpace of 1,000,000, mappings/s", "least", 1_000_000),
    ("export_growth_mib", "memory that takes, MiB", "most", 64),
]
QEMU_TARGETS = [
    ("more_ms", "a guest's memory is mapped so much later than QEMU is up, ms", "most", 100),
]


def core_rows(core):
    times = {(t["what"], t["live"], t["who"]): t["ns"] for t in core["times"]}
    lives = sorted({t["live"] for t in core["times"]})
    for what, against, at, target in CORE_TARGETS:
        for live in [at] if at else lives:
            own, other = times.get((what, live, OWN)), times.get((what, live, against))
            if own is None or other is None:
                continue
            yield (f"{what}, {live:,} live, against {against}",
                   f"{own:,.0f} ns, {other:,.0f} ns", other / own, "least", target)
    for row in core["memory"]:
        if row["live"] == 1_000_000:
            yield (f"{row['what']}, {row['live']:,} live", "bytes a mapping", row["bytes"],
                   "most", MAX_BYTES_A_MAPPING)


def rows_of(figures, targets):
    for name, what, kind, target in targets:
        if name in figures:
            yield (what, "", figures[name], kind, target)


def main(arguments):
    smoke = "--smoke" in arguments
    *files, out_file = [a for a in arguments if a != "--smoke"]
    measured = {}
    for name, file in zip(("core", "rpc", "mirror", "store", "state", "qemu"), files, strict=True):
        with open(file) as f:
            measured[name] = json.load(f)
    rows = []
    for what, detail, value, kind, target in [
            *core_rows(measured["core"]), *rows_of(measured["rpc"], RPC_TARGETS),
            *rows_of(measured["mirror"], MIRROR_TARGETS),
            *rows_of(measured["store"], STORE_TARGETS), *rows_of(measured["state"], STATE_TARGETS),
            *rows_of(measured["qemu"], QEMU_TARGETS)]:
        reached = value >= target if kind == "least" else value <= target
        rows.append({"what": what, "detail": detail, "value": value, "kind": kind,
                     "target": target, "reached": reached})
    print(f"\n{'what':60} {'measured':>12} {'must reach':>12}")
    for row in rows:
        sign = "≥" if row["kind"] == "least" else "≤"
        verdict = "" if smoke else "  ok" if row["reached"] else "  MISSED"
        print(f"{row['what']:60} {row['value']:12,.2f} {sign + ' ' + format(row['target'], 'g'):>12}"
              f"{verdict}   {row['detail']}")
    with open(out_file, "w") as f:
        json.dump({"table": rows, **measured}, f, indent=1)
    print(f"\nwritten to {out_file}")
    return 0 if smoke or all(row["reached"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
