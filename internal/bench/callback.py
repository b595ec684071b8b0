"""psycopg2's way: a callback, and an acknowledgement for every message."""
import json
import select
import sys

import psycopg2
import psycopg2.extras

dsn, slot, publication, end = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
count = 0


def receive(msg):
    global count
    count += 1
    msg.cursor.send_feedback(flush_lsn=msg.data_start)
    if msg.data_start >= end and msg.payload[:1] == b"C":
        raise psycopg2.extras.StopReplication()


conn = psycopg2.connect(dsn, connection_factory=psycopg2.extras.LogicalReplicationConnection)
cur = conn.cursor()
cur.start_replication(slot_name=slot, options={"proto_version": "1", "publication_names": publication})
try:
    cur.consume_stream(receive)
except psycopg2.extras.StopReplication:
    # Closed at once, the connection would sometimes be gone before the server has read that: wait for its answer.
    cur.send_feedback(flush_lsn=end, reply=True, force=True)
    select.select([cur], [], [], 1)
    cur.read_message()
cur.close()
conn.close()
print(json.dumps({"messages": count}))
