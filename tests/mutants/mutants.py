"""Deliberate bugs: each repeats a known incident of some key service in this code, and some test must see it.

They are small and plausible, as a tired engineer writes them or a hasty change leaves them behind. `run` plants one at
a time in a copy and shows what catches it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A bug: in `file`, which is below `server/keyturn_server`, `new` stands in place of `old`."""

    name: str
    """What goes wrong, in words."""
    file: str
    old: str
    """It occurs exactly once: a change of this code must have its mutant changed too."""
    new: str
    caught_by: str
    """The test that must fail, wherever it stands below `tests`."""


KEYS_BEFORE_THEIR_TIME = (
    Mutant(
        name="new key signs at once",
        file="domain/lifecycle.py",
        old="    earliest = known_at(ring, now)\n",
        new="    earliest = now\n",
        caught_by="test_a_standby_signs_a_period_after_its_predecessor_and_a_window_after_its_publication",
    ),
    Mutant(
        name="standby is dated when it is made, not when it is read back",
        file="domain/lifecycle.py",
        old="        keys.append(new_key(fresh, ring.policy, now))\n",
        new="""\
        earliest = known_at(ring, now)
        activated = keys[-1].activates_at
        scheduled = earliest if activated is None else activated + ring.policy.rotation_period
        standby_key = new_key(fresh, ring.policy, now)
        keys.append(replace(standby_key, published_at=now, activates_at=max(scheduled, earliest)))
""",
        caught_by="test_a_standby_is_dated_by_the_pass_that_reads_it_back_and_not_by_the_one_that_makes_it",
    ),
    Mutant(
        name="rotation to a standby that verifiers do not know is not refused",
        file="domain/key_plans.py",
        old="""\
    if safe > now and not force:
        raise _too_early(following, safe)
    keys =""",
        new="    keys =",
        caught_by="test_a_rotation_that_a_verifier_may_not_know_of_is_refused_with_the_time_when_it_is_safe",
    ),
    Mutant(
        name="W without E",
        file="domain/policy.py",
        old="self.verifier_cache + self.document_max_age + self.signing_lease + 2 * self.clock_tolerance\n",
        new="self.verifier_cache + self.document_max_age + self.signing_lease\n",
        caught_by="test_a_window_as_long_as_a_new_key_takes_to_every_verifier_is_the_shortest",
    ),
    Mutant(
        name="raised window counts from the next rotation on only",
        file="domain/issuer_plans.py",
        old="    after = replace(after, keys=tuple(_under(after, key, now) for key in after.keys))\n",
        new="",
        caught_by="test_a_raised_window_delays_a_dated_standby_until_every_verifier_knows_it",
    ),
    Mutant(
        name="lowered policy forgets the window of the former one",
        file="domain/issuer_plans.py",
        old="_still_counts(ring, each, now)), FormerPolicy(ring.policy, now))\n",
        new="_still_counts(ring, each, now)),)\n",
        caught_by="test_a_lowered_window_counts_only_for_keys_that_are_published_later",
    ),
)

KEYS_GONE_TOO_SOON = (
    Mutant(
        name="token outlives publication",
        file="domain/policy.py",
        old="        return max_lifetime + self.signing_lease + 4 * self.clock_tolerance\n",
        new="        return self.signing_lease + 4 * self.clock_tolerance\n",
        caught_by="test_a_key_stays_published_until_its_last_token_is_dead",
    ),
    Mutant(
        name="request that outlives its key's publication is signed",
        file="signing.py",
        old="        _check_cover(ring, key, claims.expires_at)\n",
        new="        _check_cover(ring, key, claims.issued_at)\n",
        caught_by="test_a_token_that_would_outlive_the_publication_of_its_key_is_not_signed",
    ),
    Mutant(
        name="retain ignored: key leaves the documents with its private half",
        file="domain/ring.py",
        old="        if key.revoked_at is None and ((until := ",
        new="        if key.revoked_at is None and key.destroyed_at is None and ((until := ",
        caught_by="test_a_key_stays_published_after_its_private_half_was_destroyed",
    ),
    Mutant(
        name="private half destroyed at once, while slow clocks still sign with it",
        file="domain/lifecycle.py",
        old="            and deactivated + 2 * ring.policy.clock_tolerance <= now\n",
        new="            and deactivated <= now\n",
        caught_by="test_a_private_half_is_destroyed_once_no_clock_takes_its_key_for_the_signer",
    ),
    Mutant(
        name="expiry that passes",
        file="domain/documents.py",
        old="        takeover = max((key.activates_at or soonest) + policy.rotation_period, soonest)\n",
        new="        takeover = (key.activates_at or soonest) + policy.rotation_period\n",
        caught_by="test_an_overdue_signer_expires_as_if_relieved_at_the_next_multiple_of_the_window",
    ),
)

KEYS_TOO_MANY = (
    Mutant(
        name="three replicas, three keys: a version is written over another one",
        file="storage/sql.py",
        old="        await connection.execute(insert(schema.ring_versions).values(asdict(ring)))\n",
        new="""\
        await connection.execute(insert(schema.ring_versions).prefix_with("OR REPLACE").values(asdict(ring)))
""",
        caught_by="test_of_replicas_that_append_the_same_version_at_once_one_does",
    ),
    Mutant(
        name="loser of a race tries again with what it holds",
        file="rotation.py",
        old="""\
        except RingChangedError:
            log.debug("another change came first", issuer=ring.issuer, version=ring.version)
""",
        new="""\
        except RingChangedError:
            newest = await self._ledger.read([ring.issuer])
            return await self._advance(newest.rings[ring.issuer], now)
""",
        caught_by="test_replicas_that_rotate_at_the_same_moment_make_exactly_one_new_key",
    ),
    Mutant(
        name="read that creates",
        file="administration.py",
        old="""\
        check_not_older(reading.rings[issuer], seen)
        return reading.rings[issuer]
""",
        new="""\
        from keyturn_server.domain.lifecycle import advance, due

        check_not_older(reading.rings[issuer], seen)
        ring, now = reading.rings[issuer], self._clock.now()
        if due(ring, now).make_standby:
            public_key, wrapped = await self._generate(issuer, ring.policy)
            ring = advance(ring, now, public_key)
            await self._ledger.append(ring, add=[wrapped], remove=due(reading.rings[issuer], now).destroy)
        return ring
""",
        caught_by="test_looking_makes_nothing",
    ),
    Mutant(
        name="failed decrypt mints",
        file="signers.py",
        old="""\
                if name not in self._refused:
                    log.error("private key refused", issuer=ring.issuer, kid=key.kid, row=error.row, why=error.message)
                self._refused.add(name)
""",
        new="""\
                log.warning("private key replaced", issuer=ring.issuer, kid=key.kid, row=error.row, why=error.message)
                public_key, wrapped = self._private_keys.generate(ring.issuer, ring.policy.key_size)
                held[key.kid] = self._private_keys.unwrap(wrapped, public_key)
""",
        caught_by="test_nothing_is_made_in_the_place_of_a_key_that_is_missing",
    ),
    Mutant(
        name="empty store mints",
        file="app.py",
        old="""\
        raise ConfigurationError("storage.url: this store was never set up: run `keyturn init`, or name the right one")
""",
        new="""\
        from keyturn_server.crypto.stamp import new_stamp

        stamp, integrity_key = new_stamp(kek)
        await store.write_stamp(stamp)
        return kek, integrity_key
""",
        caught_by="test_a_store_that_was_never_set_up_is_not_served_and_not_set_up",
    ),
    Mutant(
        name="key count grows with restarts: a standby not yet read back is made again",
        file="domain/lifecycle.py",
        old="        make_standby=standby(ring, now) is None and signer(ring, now) is not None,\n",
        new="""\
        make_standby=((following := standby(ring, now)) is None or following.published_at is None)
        and signer(ring, now) is not None,
""",
        caught_by="test_the_first_pass_reads_the_first_standby_back",
    ),
    Mutant(
        name="forced rotations grow a document without bound",
        file="domain/key_plans.py",
        old="check_room(ring, now, keys + 1, MAX_PUBLISHED_KEYS)",
        new="pass",
        caught_by="test_a_document_that_is_full_is_not_rotated_further",
    ),
    Mutant(
        name="repeated command acts twice",
        file="administration.py",
        old="""\
        if mutation.expected_ring_version:
            self._check_version(mutation, ring)
        plan = planner(ring, None)
""",
        new="        plan = planner(ring, None)\n",
        caught_by="test_a_ring_that_is_no_longer_at_that_version_is_not_changed",
    ),
)

SIGNERS_THAT_MUST_NOT = (
    Mutant(
        name="slow clock falls back to an old key",
        file="domain/key_plans.py",
        old="    successor = _takeover(following, now - 2 * ring.policy.clock_tolerance, change, forced=safe > now)\n",
        new="    successor = _takeover(following, now, change, forced=safe > now)\n",
        caught_by="test_after_a_revocation_the_slowest_clock_has_a_signer_too",
    ),
    Mutant(
        name="slow clock has no first signer",
        file="domain/lifecycle.py",
        old="    first = replace(first, published_at=now, activates_at=now - 2 * policy.clock_tolerance)\n",
        new="    first = replace(first, published_at=now, activates_at=now)\n",
        caught_by="test_a_new_issuer_has_a_signer_that_signs_at_once_on_every_clock_and_a_standby",
    ),
    Mutant(
        name="revoked key's private half is kept",
        file="domain/key_plans.py",
        old="revoked_at=now, destroyed_at=target.destroyed_at or now, reason=change.reason)\n",
        new="revoked_at=now, reason=change.reason)\n",
        caught_by="test_a_revoked_signers_private_half_is_gone_from_store_and_memory_and_the_standby_signs",
    ),
    Mutant(
        name="removed key's bytes stay in the file",
        file="storage/sql.py",
        old="            .values(wrapped=bytes(row.length), removed=True)\n",
        new="            .values(removed=True)\n",
        caught_by="test_removed_keys_are_in_no_byte_of_any_file",
    ),
    Mutant(
        name="retired issuer signs on",
        file="domain/ring.py",
        old="""\
    if is_retired(ring, now):
        return None
    return next((key for key in reversed(ring.keys)""",
        new="    return next((key for key in reversed(ring.keys)",
        caught_by="test_a_retired_issuer_has_neither_signer_nor_standby",
    ),
    Mutant(
        name="replica that is cut off signs on after its lease",
        file="rings.py",
        old="        if age > held.ring.policy.signing_lease:\n",
        new="        if age > held.ring.policy.propagation_window:\n",
        caught_by="test_a_ring_is_good_for_its_signing_lease_while_the_store_is_unreachable",
    ),
    Mutant(
        name="lease counts from the answer of the store",
        file="rings.py",
        old="""\
            asked = self._clock.elapsed()
            newest = await self._ledger.newest_versions()
""",
        new="""\
            newest = await self._ledger.newest_versions()
            asked = self._clock.elapsed()
""",
        caught_by="test_the_lease_counts_from_before_the_store_was_asked",
    ),
    Mutant(
        name="corrupt key is taken for a good one",
        file="crypto/rsa_keys.py",
        old="        if not _signs(private_key, public_key):\n",
        new="        if private_key.key_size < _LEAST_KEY_SIZE:\n",
        caught_by="test_a_private_key_that_does_not_work_is_refused",
    ),
)

STORES_THAT_ARE_BELIEVED = (
    Mutant(
        name="empty update: an answer without rings empties the snapshot",
        file="rings.py",
        old="""\
            for issuer in self._held.keys() - newest.keys():
                self._refuse(issuer, gone(issuer, self.version(issuer)))
""",
        new="            self._held = {issuer: held for issuer, held in self._held.items() if issuer in newest}\n",
        caught_by="test_a_ring_that_the_store_no_longer_confirms_is_kept_until_its_lease_is_over",
    ),
    Mutant(
        name="update that changes nothing is written",
        file="domain/issuer_plans.py",
        old="    if policy == ring.policy:\n",
        new="    if policy is ring.policy:\n",
        caught_by="test_the_policy_that_is_in_force_already_makes_no_version",
    ),
    Mutant(
        name="versions go back",
        file="rings.py",
        old="            check_not_older(ring, max(self.version(issuer), named))\n",
        new="            check_not_older(ring, named)\n",
        caught_by="test_a_ring_that_the_store_no_longer_confirms_is_kept_until_its_lease_is_over",
    ),
    Mutant(
        name="edited row is believed",
        file="ledger.py",
        old="        if not self._seal.check(row.body, row.signature):\n",
        new="        if not row.signature:\n",
        caught_by="test_a_row_that_is_not_what_was_written_is_refused_by_name",
    ),
    Mutant(
        name="ring that was refused is rotated",
        file="rotation.py",
        old="            for ring in self._rings.confirmed().values()\n",
        new="            for ring in self._rings.all().values()\n",
        caught_by="test_a_ring_that_the_store_does_not_confirm_is_not_turned_and_no_key_is_made_for_it",
    ),
    Mutant(
        name="wrong key encryption key is stamped anew in memory and served",
        file="app.py",
        old="    return kek, open_stamp(stamp, kek, configuration.integrity.public_key)\n",
        new="""\
    try:
        return kek, open_stamp(stamp, kek, configuration.integrity.public_key)
    except ConfigurationError as error:
        from keyturn_server.crypto.stamp import new_stamp

        log.warning("the stamp does not fit", why=error.message)
        return kek, new_stamp(kek)[1]
""",
        caught_by="test_a_store_of_another_key_encryption_key_is_not_served_and_not_changed",
    ),
    Mutant(
        name="stored key is overwritten",
        file="storage/sql.py",
        old="        await connection.execute(insert(schema.private_keys), [",
        new='        await connection.execute(insert(schema.private_keys).prefix_with("OR REPLACE"), [',
        caught_by="test_a_kid_is_stored_only_once_ever_and_a_refused_key_undoes_the_whole_change",
    ),
    Mutant(
        name="kill between two statements leaves half a change",
        file="storage/sql.py",
        old="                await _append_version(connection, ring)\n",
        new="""\
                await _append_version(connection, ring)
            async with self._writing("change its private keys") as connection:
""",
        caught_by="test_a_kid_is_stored_only_once_ever_and_a_refused_key_undoes_the_whole_change",
    ),
    Mutant(
        name="write begins as a read and fails when another one wrote",
        file="storage/sqlite.py",
        old='            connection.exec_driver_sql("BEGIN IMMEDIATE")\n',
        new='            connection.exec_driver_sql("BEGIN")\n',
        caught_by="test_a_write_holds_the_lock_before_its_first_statement",
    ),
    Mutant(
        name="power failure takes a commit back",
        file="storage/sqlite.py",
        old='_PRAGMAS = ("PRAGMA synchronous = FULL",',
        new='_PRAGMAS = ("PRAGMA synchronous = NORMAL",',
        caught_by="test_every_connection_is_durable_overwrites_what_it_deletes_and_waits_for_locks",
    ),
)

OUTAGES = (
    Mutant(
        name="a kid twice in one document",
        file="domain/documents.py",
        old="""\
    keys = published(ring, now)
    current = signer(ring, now)
""",
        new="""\
    current = signer(ring, now)
    keys = published(ring, now) if current is None else (current, *published(ring, now))
""",
        caught_by="test_the_jwks_holds_the_public_members_of_each_published_key_and_no_others",
    ),
    Mutant(
        name="replicas publish different documents until a boundary",
        file="publishing.py",
        old="        return self.ring is ring and self.at <= now",
        new="        return self.at <= now",
        caught_by="test_a_change_of_the_ring_is_in_the_documents_as_soon_as_it_is_in_force",
    ),
    Mutant(
        name="one bad key stops every issuer",
        file="signers.py",
        old="                self._refused.add(name)\n",
        new="                raise\n",
        caught_by="test_a_private_key_that_cannot_be_used_suffers_alone_and_is_named_once",
    ),
    Mutant(
        name="ring names a signer before its private key is there",
        file="rings.py",
        old="""\
        await self._signers.load(ring)
        self._held[issuer] = _Held(ring, asked)
""",
        new="""\
        self._held[issuer] = _Held(ring, asked)
        await self._signers.load(ring)
""",
        caught_by="test_private_keys_are_there_before_the_ring_that_names_them",
    ),
    Mutant(
        name="signing waits while a key is made",
        file="rotation.py",
        old="""\
                public_key, wrapped = await asyncio.to_thread(
                    self._private_keys.generate, ring.issuer, ring.policy.key_size
                )
""",
        new="                public_key, wrapped = self._private_keys.generate(ring.issuer, ring.policy.key_size)\n",
        caught_by="test_keys_are_made_and_unwrapped_off_the_event_loop",
    ),
)

MUTANTS = (
    *KEYS_BEFORE_THEIR_TIME,
    *KEYS_GONE_TOO_SOON,
    *KEYS_TOO_MANY,
    *SIGNERS_THAT_MUST_NOT,
    *STORES_THAT_ARE_BELIEVED,
    *OUTAGES,
)
