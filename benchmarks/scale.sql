-- Rows of a tenant as syncs would have left them, 10 chunks a document. One chunk of each document is a text that every
-- document has, one in a hundred a text that some have; one text in a thousand the model has refused, one document in a
-- hundred is quarantined. Run by a superuser, foreign keys unchecked, in this order.

-- name: documents
INSERT INTO minirag.document (tenant_id, document_id, source_id, uri, uri_key, kind, size_bytes, content_hash,
                              version_id, pending, first_seen_at)
SELECT %(tenant_id)s, md5('document' || i)::uuid, %(source_id)s, uri, sha256(uri::bytea), 'md',
       length('content' || i), sha256(('content' || i)::bytea),
       CASE WHEN mod(i, 100) <> 50 THEN md5('version' || i)::uuid END,
       CASE WHEN mod(i, 100) = 50 THEN 'content' END, now() - make_interval(secs => i)
  FROM generate_series(1, %(documents)s) AS i,
       LATERAL (SELECT 'file:///documents/' || i / 100 || '/' || i || '.md' AS uri) AS named;

-- name: listed
INSERT INTO minirag.listed (tenant_id, source_id, document_id, size_bytes, modified_at, etag)
SELECT %(tenant_id)s, %(source_id)s, md5('document' || i)::uuid, length('content' || i), %(modified_at)s, '1'
  FROM generate_series(1, %(documents)s) AS i;

-- name: versions
INSERT INTO minirag.version (tenant_id, version_id, content_hash, kind, parser, title, text, elements, size_bytes,
                             run_id)
SELECT %(tenant_id)s, md5('version' || i)::uuid, sha256(('content' || i)::bytea), 'md', %(parser)s, 'Document ' || i,
       'The text of document ' || i, '[]', length('content' || i), 'r'
  FROM generate_series(1, %(documents)s) AS i
 WHERE mod(i, 100) <> 50;

-- name: chunkings
INSERT INTO minirag.chunking (tenant_id, version_id, chunker, chunks, tokens, run_id)
SELECT %(tenant_id)s, version_id, %(chunker)s, 10, 2000, 'r'
  FROM minirag.version
 WHERE tenant_id = %(tenant_id)s;

-- name: chunks
INSERT INTO minirag.chunk (tenant_id, version_id, chunker, ordinal, start_char, end_char, headings, page, tokens, text,
                           text_hash)
SELECT %(tenant_id)s, md5('version' || i)::uuid, %(chunker)s, k, k * 600, k * 600 + 527, '["Part", "Section"]', NULL,
       200, text, sha256(text::bytea)
  FROM generate_series(1, %(documents)s) AS i,
       generate_series(0, 9) AS k,
       LATERAL (SELECT 10 * i + k AS n) AS numbered,
       LATERAL (SELECT repeat(md5(CASE WHEN k = 9 THEN 'all' WHEN mod(n, 100) = 3 THEN 'some' || mod(n, 10000)
                                       ELSE 'one' || n END), 16) AS text) AS written
 WHERE mod(i, 100) <> 50;

-- name: refused
INSERT INTO minirag.failure (tenant_id, stage, key, maker, code, reason, permanent, attempts)
SELECT %(tenant_id)s, 'embed', encode(sha256(repeat(md5('one' || 10 * i + 7), 16)::bytea), 'hex'), %(model)s, 'refused',
       'The input was rejected.', true, 1
  FROM generate_series(100, %(documents)s, 100) AS i;

-- name: quarantined
INSERT INTO minirag.failure (tenant_id, stage, key, maker, code, reason, permanent, attempts)
SELECT %(tenant_id)s, 'parse', encode(content_hash, 'hex') || ':md', %(parser)s, 'corrupt', 'It is damaged.', true, 1
  FROM minirag.document
 WHERE tenant_id = %(tenant_id)s AND pending = 'content';

-- name: indexed
INSERT INTO minirag.indexed (tenant_id, generation, text_hash, state)
SELECT DISTINCT %(tenant_id)s, %(generation)s, text_hash, 'there'
  FROM minirag.chunk
 WHERE tenant_id = %(tenant_id)s
   AND encode(text_hash, 'hex') NOT IN (SELECT key FROM minirag.failure
                                         WHERE tenant_id = %(tenant_id)s AND stage = 'embed');

-- name: published
INSERT INTO minirag.published (tenant_id, generation, document_id, version_id, chunks, run_id)
SELECT %(tenant_id)s, %(generation)s, document_id, version_id, 10, 'r'
  FROM minirag.document
 WHERE tenant_id = %(tenant_id)s AND version_id IS NOT NULL;

-- name: counters
UPDATE minirag.generation
   SET documents = (SELECT count(*) FROM minirag.published WHERE tenant_id = %(tenant_id)s),
       chunks = (SELECT count(*) FROM minirag.chunk WHERE tenant_id = %(tenant_id)s),
       texts = (SELECT count(*) FROM minirag.indexed WHERE tenant_id = %(tenant_id)s)
 WHERE tenant_id = %(tenant_id)s
RETURNING texts;

-- name: rows_written
-- By every session that has ended, in MiniRAG's tables.
SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint AS rows
  FROM pg_stat_user_tables
 WHERE schemaname = 'minirag';

-- name: sessions
-- How many of these are still there.
SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%(sessions)s);
