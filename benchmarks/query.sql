-- Rows of a tenant as a sync would have left them: 20 chunks a document, one chunk in a hundred a text that others
-- have too (100 such texts, spread evenly). Run by a superuser, foreign keys unchecked, in this order.

-- name: documents
INSERT INTO minirag.document (tenant_id, document_id, source_id, uri, uri_key, kind, size_bytes, content_hash,
                              version_id, first_seen_at)
SELECT %(tenant_id)s, md5('document' || i)::uuid, %(source_id)s, 'file:///documents/' || i / 100 || '/' || i || '.md',
       sha256(('uri' || i)::bytea), 'md', 12000, sha256(('content' || i)::bytea), md5('version' || i)::uuid,
       now() - make_interval(secs => mod(i, 100000))
  FROM generate_series(1, %(documents)s) AS i;

-- name: versions
INSERT INTO minirag.version (tenant_id, version_id, content_hash, kind, parser, title, text, elements, size_bytes,
                             run_id)
SELECT %(tenant_id)s, md5('version' || i)::uuid, sha256(('content' || i)::bytea), 'md', 'p', 'Document ' || i,
       'The text of document ' || i, '[]', 12000, 'r'
  FROM generate_series(1, %(documents)s) AS i;

-- name: chunkings
INSERT INTO minirag.chunking (tenant_id, version_id, chunker, chunks, tokens, run_id)
SELECT %(tenant_id)s, md5('version' || i)::uuid, %(chunker)s, 20, 4000, 'r'
  FROM generate_series(1, %(documents)s) AS i;

-- name: chunks
WITH written AS (
    SELECT i, string_agg(md5((CASE WHEN mod(i, 100) = 0 THEN mod(i, 10000) ELSE i END * 16 + k)::text), ' ') AS text
      FROM generate_series(1, %(documents)s * 20) AS i, generate_series(1, 16) AS k
     GROUP BY i
)
INSERT INTO minirag.chunk (tenant_id, version_id, chunker, ordinal, start_char, end_char, headings, page, tokens, text,
                           text_hash)
SELECT %(tenant_id)s, md5('version' || 1 + (i - 1) / 20)::uuid, %(chunker)s, mod(i - 1, 20), mod(i - 1, 20) * 600,
       mod(i - 1, 20) * 600 + 527, '["Part", "Section"]', NULL, 200, text, sha256(text::bytea)
  FROM written;

-- name: indexed
INSERT INTO minirag.indexed (tenant_id, generation, text_hash, state)
SELECT DISTINCT %(tenant_id)s, %(generation)s, text_hash, 'there'
  FROM minirag.chunk
 WHERE tenant_id = %(tenant_id)s;

-- name: published
INSERT INTO minirag.published (tenant_id, generation, document_id, version_id, chunks, run_id)
SELECT %(tenant_id)s, %(generation)s, md5('document' || i)::uuid, md5('version' || i)::uuid, 20, 'r'
  FROM generate_series(1, %(documents)s) AS i;

-- name: hashes
-- Some of the tenant's texts, drawn evenly.
SELECT text_hash
  FROM minirag.chunk TABLESAMPLE SYSTEM (50) REPEATABLE (1)
 WHERE tenant_id = %(tenant_id)s
 ORDER BY md5(ordinal::text || version_id::text)
 LIMIT %(most)s;
