-- name: generation
SELECT * FROM generation WHERE tenant_id = %(tenant_id)s AND number = %(number)s AND state <> 'deleted';

-- name: live
SELECT * FROM generation WHERE tenant_id = %(tenant_id)s AND state = 'live';

-- name: building
SELECT * FROM generation WHERE tenant_id = %(tenant_id)s AND state = 'building';

-- name: kept
SELECT * FROM generation WHERE tenant_id = %(tenant_id)s AND state = 'kept' ORDER BY live_at DESC, number DESC;

-- name: generations
SELECT * FROM generation WHERE tenant_id = %(tenant_id)s AND state <> 'deleted' ORDER BY number;

-- name: add
INSERT INTO generation (tenant_id, number, state, chunk_tokens, chunk_overlap, chunker, embedding_model, model,
                        dimension, portable, collection, live_at)
SELECT %(tenant_id)s, coalesce(max(number), 0) + 1, %(state)s, %(chunk_tokens)s, %(chunk_overlap)s, %(chunker)s,
       %(embedding_model)s, %(model)s, %(dimension)s, %(portable)s, %(collection)s,
       CASE WHEN %(state)s = 'live' THEN now() END
  FROM generation
 WHERE tenant_id = %(tenant_id)s
RETURNING *;

-- name: set_state
UPDATE generation
   SET state = %(state)s,
       live_at = CASE WHEN %(state)s = 'live' THEN now() ELSE live_at END,
       retired_at = CASE WHEN %(state)s = 'retired' THEN now() ELSE retired_at END
 WHERE tenant_id = %(tenant_id)s AND number = %(number)s;

-- name: remove
DELETE FROM generation WHERE tenant_id = %(tenant_id)s AND number = %(number)s AND state = 'deleted';

-- name: forget_texts
DELETE FROM indexed WHERE tenant_id = %(tenant_id)s AND generation = %(number)s;

-- name: forget_documents
DELETE FROM published WHERE tenant_id = %(tenant_id)s AND generation = %(number)s;
