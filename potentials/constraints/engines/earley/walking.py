"""Compiled loops that walk tokens over the states of a parser, as far as these are known.

All kernels are plain loops over arrays: they run undecorated too, only slower. A place is a pair (q, u): a state, and
how far into a character the bytes so far have come.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def walk(row, most, jobs, alive, needs, known, step, delta, byte, depth, skip, first, token, path, opened):
    """Set in `row` the bits of tokens that lead to live places; return the number of `opened` walks to be gone on with.

    `jobs` (J, 4): nodes from, nodes to, and the place (q, u) above them. `alive` (S, U): DEAD, LIVE or PASSAGE.
    `needs` (S, U): no fewer tokens lead to acceptance; more than `most` are too many. `known` (S,): whether `delta`
    (S, C) is filled in; where it is not, a walk stops and goes to `opened` (nodes, 4), in the shape of `jobs`. `path`
    (2, height + 1) is a buffer.
    """
    count = 0
    for j in range(len(jobs)):
        k, end = jobs[j, 0], jobs[j, 1]
        base = depth[k]
        path[0, 0], path[1, 0] = jobs[j, 2], jobs[j, 3]
        while k < end:
            d = depth[k] - base
            q, move = path[0, d], step[path[1, d], byte[k]]
            u = move if move >= 0 else 0
            if move < 0:
                q = -1 if move == -1 else delta[q, -2 - move]
            if q < 0 or alive[q, u] == 0:
                k = skip[k]
                continue
            if alive[q, u] == 1 and needs[q, u] <= most:
                for i in range(first[k], first[k + 1]):
                    row[token[i] >> 5] |= np.uint32(1) << np.uint32(token[i] & 31)
            if skip[k] > k + 1 and not known[q]:
                opened[count, 0], opened[count, 1], opened[count, 2], opened[count, 3] = k + 1, skip[k], q, u
                count += 1
                k = skip[k]
                continue
            path[0, d + 1], path[1, d + 1] = q, u
            k += 1
    return count


@numba.njit(cache=True, nogil=True)
def follow(q, u, at, end, alive, known, step, delta, flat):
    """Move the places (q, u) (N,) along the bytes `at` to `end` (N,) of `flat`, in place, as far as states are known.

    A place that is dead becomes -1; `at` says how far it came.
    """
    for i in range(len(q)):
        while at[i] < end[i] and q[i] >= 0:
            if not known[q[i]]:
                break
            move = step[u[i], flat[at[i]]]
            u[i] = move if move >= 0 else 0
            if move < 0:
                q[i] = -1 if move == -1 else delta[q[i], -2 - move]
            if q[i] >= 0 and alive[q[i], u[i]] == 0:
                q[i] = -1
            at[i] += 1
