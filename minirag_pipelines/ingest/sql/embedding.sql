-- name: documents_to_embed
SELECT d.document_id, d.version_id
  FROM document d
 WHERE d.tenant_id = %(tenant_id)s
   AND d.pending = 'publication'
   AND d.document_id > %(after)s
   AND d.removed_at IS NULL
   AND d.forgotten_at IS NULL
 ORDER BY d.document_id
 LIMIT %(most)s;

-- name: unsettled
-- Texts of these versions that are not in the collection and that the model has not refused, in reading order. Looked
-- up one by one: joined, a table that has never been analysed is read as a whole for each chunk.
SELECT text_hash
  FROM (SELECT DISTINCT ON (c.text_hash) c.text_hash, c.version_id, c.ordinal
          FROM unnest(%(version_ids)s::uuid[]) AS wanted
         CROSS JOIN LATERAL (SELECT * FROM chunk k
                              WHERE k.tenant_id = %(tenant_id)s AND k.version_id = wanted AND k.chunker = %(chunker)s
                             OFFSET 0) AS c
         WHERE (SELECT i.state FROM indexed i
                 WHERE i.tenant_id = %(tenant_id)s AND i.generation = %(generation)s AND i.text_hash = c.text_hash)
               IS DISTINCT FROM 'there'
           AND (SELECT true FROM failure f
                 WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'embed'
                   AND f.key = encode(c.text_hash, 'hex') AND f.maker = %(model)s AND f.permanent
                 LIMIT 1) IS NULL
         ORDER BY c.text_hash, c.version_id, c.ordinal) AS missing
 ORDER BY version_id, ordinal;

-- name: known_vectors
SELECT text_hash, vector
  FROM embedding
 WHERE tenant_id = %(tenant_id)s AND model = %(model)s AND text_hash = ANY(%(text_hashes)s)
 ORDER BY text_hash;

-- name: texts
-- Of any chunk that has it: a text may stand in every document.
SELECT wanted AS text_hash, c.headings, c.text
  FROM unnest(%(text_hashes)s::bytea[]) AS wanted
 CROSS JOIN LATERAL (SELECT headings, text FROM chunk
                      WHERE tenant_id = %(tenant_id)s AND text_hash = wanted AND chunker = %(chunker)s
                      LIMIT 1) AS c
 ORDER BY wanted;

-- name: record_vectors
INSERT INTO embedding (tenant_id, model, text_hash, vector, run_id)
SELECT %(tenant_id)s, %(model)s, made.*, %(run_id)s
  FROM unnest(%(text_hashes)s::bytea[], %(vectors)s::bytea[]) AS made
ON CONFLICT (tenant_id, model, text_hash) DO NOTHING;

-- name: record_sending
INSERT INTO indexed (tenant_id, generation, text_hash, state)
SELECT %(tenant_id)s, %(generation)s, wanted, 'sending'
  FROM unnest(%(text_hashes)s::bytea[]) AS wanted
ON CONFLICT (tenant_id, generation, text_hash) DO UPDATE
   SET state = 'sending', changed_at = now()
 WHERE indexed.state = 'leaving'
RETURNING xmax <> 0 AS was_leaving;

-- name: record_there
UPDATE indexed SET state = 'there', changed_at = now()
 WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND state = 'sending'
   AND text_hash = ANY(%(text_hashes)s);

-- name: record_usage
INSERT INTO usage (tenant_id, day, stage, model, requests, unpriced, prompt_tokens, completion_tokens, cost_usd)
VALUES (%(tenant_id)s, (now() AT TIME ZONE 'UTC')::date, %(stage)s, %(model)s, %(requests)s, %(unpriced)s,
        %(prompt_tokens)s, %(completion_tokens)s, %(cost_usd)s)
ON CONFLICT (tenant_id, day, stage, model) DO UPDATE
   SET requests = usage.requests + EXCLUDED.requests,
       unpriced = usage.unpriced + EXCLUDED.unpriced,
       prompt_tokens = usage.prompt_tokens + EXCLUDED.prompt_tokens,
       completion_tokens = usage.completion_tokens + EXCLUDED.completion_tokens,
       cost_usd = usage.cost_usd + EXCLUDED.cost_usd;

-- name: add_refusal
INSERT INTO failure (tenant_id, stage, key, maker, code, reason, permanent, attempts)
VALUES (%(tenant_id)s, 'embed', encode(%(text_hash)s, 'hex'), %(model)s, 'refused', %(reason)s, true, 1)
ON CONFLICT (tenant_id, stage, key, maker) DO UPDATE
   SET reason = EXCLUDED.reason, attempts = failure.attempts + 1, last_at = now();

-- name: refused
-- Texts of live documents that the model has refused for good. Looked up one by one, as in `unsettled`.
SELECT count(*) AS texts
  FROM failure f
 WHERE f.tenant_id = %(tenant_id)s
   AND f.stage = 'embed'
   AND f.maker = %(model)s
   AND (SELECT true FROM chunk c
         WHERE c.tenant_id = %(tenant_id)s AND c.text_hash = decode(f.key, 'hex') AND c.chunker = %(chunker)s
           AND (SELECT true
                  FROM (SELECT removed_at, forgotten_at FROM document
                         WHERE tenant_id = %(tenant_id)s AND version_id = c.version_id
                        OFFSET 0) AS d
                 WHERE d.removed_at IS NULL AND d.forgotten_at IS NULL
                 LIMIT 1)
         LIMIT 1);

-- name: count_texts
UPDATE generation SET texts = texts + %(texts)s, data_version = data_version + 1
 WHERE tenant_id = %(tenant_id)s AND number = %(generation)s;

-- name: wanted_chunks
SELECT coalesce(sum(k.chunks), 0)::bigint AS chunks
  FROM document d
  JOIN chunking k ON k.tenant_id = %(tenant_id)s AND k.version_id = d.version_id AND k.chunker = %(chunker)s
 WHERE d.tenant_id = %(tenant_id)s AND d.pending = 'publication' AND d.removed_at IS NULL AND d.forgotten_at IS NULL;
