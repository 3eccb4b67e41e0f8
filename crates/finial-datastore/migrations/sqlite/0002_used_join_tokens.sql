-- A token that was spent is remembered for as long as one that expired, so that its second user can be told.
ALTER TABLE join_tokens ADD COLUMN used_at INTEGER;
