"""Keeps each packet that is routed to the device of this name for so many milliseconds, then sends it on: `delay.py NAME MS`.

Says "ready" once the device is there. Both end with the standard input.
"""

import collections
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
LONGEST_PACKET = 65535

name, delay = sys.argv[1], float(sys.argv[2]) / 1000
device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
print("ready", flush=True)
kept = collections.deque()
while True:
    wait = max(0, kept[0][0] - time.monotonic()) if kept else None
    readable, _, _ = select.select([device, sys.stdin], [], [], wait)
    if sys.stdin in readable:
        break
    try:
        while device in readable:
            packet = os.read(device, LONGEST_PACKET)
            kept.append((time.monotonic() + delay, packet))
    except (BlockingIOError, OSError):
        # Nothing more is there, or the device is not up yet.
        pass
    while kept and kept[0][0] <= time.monotonic():
        os.write(device, kept.popleft()[1])
