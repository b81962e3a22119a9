"""The daily work of a program that uses the Python client `etcd3`.

usage: etcd3_daily_work.py PORT
Prints a line per step; waits for a line on its input while the server is restarted.
"""
import sys
import threading
import time

import etcd3

client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]), timeout=10)


def check(what, condition):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}", flush=True)


def until(what, condition):
    end = time.monotonic() + 20
    while True:
        try:
            if condition():
                break
        except etcd3.exceptions.Etcd3Exception:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"FAILED: never: {what}")
        time.sleep(0.05)
    print(f"ok: {what}", flush=True)


client.put("app/a", "1")
value, meta = client.get("app/a")
check("put and get", value == b"1" and meta.version == 1)
check("absent", client.get("app/none") == (None, None))
client.put("app/b", "2")
check("prefix", [v for v, _ in client.get_prefix("app/")] == [b"1", b"2"])
descending = client.get_prefix("app/", sort_order="descend", sort_target="key")
check("sorted", [m.key for _, m in descending] == [b"app/b", b"app/a"])
check("replace", client.replace("app/a", "1", "3") and not client.replace("app/a", "1", "4"))
check("put_if_not_exists", not client.put_if_not_exists("app/a", "5"))
succeeded, answers = client.transaction(
    compare=[client.transactions.value("app/a") == "3", client.transactions.version("app/n") == 0],
    success=[client.transactions.put("app/n", "new"), client.transactions.get("app/n")],
    failure=[client.transactions.get("app/a")],
)
check("transaction", succeeded and answers[1][0][0] == b"new")
check("delete", client.delete("app/n") and not client.delete("app/n"))

lease = client.lease(60)
client.put("app/leased", "x", lease=lease)
check("lease", 0 < lease.remaining_ttl <= 60 and lease.granted_ttl == 60)
check("keys of the lease", list(lease.keys) == [b"app/leased"])
check("refresh", [r.TTL for r in lease.refresh()] == [60])
lease.revoke()
check("revoke", client.get("app/leased") == (None, None))

lock = client.lock("lane", ttl=60)
check("lock", lock.acquire(timeout=10) and lock.is_acquired())
other = client.lock("lane", ttl=60)
check("locked out", not other.acquire(timeout=1))
check("unlock", lock.release() and other.acquire(timeout=10))
other.release()

seen = []
events, cancel = client.watch_prefix("seen/")


def collect():
    for event in events:
        seen.append((type(event).__name__, event.key))


threading.Thread(target=collect, daemon=True).start()
client.put("seen/1", "v")
client.delete("seen/1")
until("watch", lambda: seen == [("PutEvent", b"seen/1"), ("DeleteEvent", b"seen/1")])
cancel()

_, meta = client.get("app/a")
client.compact(meta.mod_revision)
try:
    next(client.watch("app/a", start_revision=2)[0])
    check("compacted", False)
except etcd3.exceptions.RevisionCompactedError as error:
    check("compacted", error.compacted_revision == meta.mod_revision)

status = client.status()
check("status", status.leader is not None and status.version.startswith("3."))
check("members", len(list(client.members)) == 1)

print("restart", flush=True)
sys.stdin.readline()
until("read after a restart", lambda: client.get("app/a")[0] == b"3")
until("write after a restart", lambda: client.put("app/after", "v") is not None)
events, cancel = client.watch("app/again", start_revision=client.get("app/after")[1].mod_revision)
client.put("app/again", "v")
check("watch after a restart", next(events).value == b"v")
cancel()
print("done", flush=True)
