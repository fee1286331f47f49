-- name: versions_to_cut
-- Versions that pending documents point at and that this chunker has not cut.
SELECT DISTINCT d.version_id
  FROM document d
 WHERE d.tenant_id = %(tenant_id)s
   AND d.pending = 'publication'
   AND d.version_id > %(after)s
   AND d.removed_at IS NULL
   AND d.forgotten_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM chunking k
                    WHERE k.tenant_id = %(tenant_id)s AND k.version_id = d.version_id AND k.chunker = %(chunker)s)
 ORDER BY d.version_id
 LIMIT %(most)s;

-- name: version
SELECT title, text, elements, pages FROM version WHERE tenant_id = %(tenant_id)s AND version_id = %(version_id)s;

-- name: add_chunking
INSERT INTO chunking (tenant_id, version_id, chunker, chunks, tokens, run_id)
VALUES (%(tenant_id)s, %(version_id)s, %(chunker)s, %(chunks)s, %(tokens)s, %(run_id)s)
ON CONFLICT (tenant_id, version_id, chunker) DO NOTHING
RETURNING chunks;

-- name: add_chunks
INSERT INTO chunk (tenant_id, version_id, chunker, ordinal, start_char, end_char, headings, page, tokens, text, text_hash)
SELECT %(tenant_id)s, %(version_id)s, %(chunker)s, cut.*
  FROM unnest(%(ordinals)s::integer[], %(starts)s::integer[], %(ends)s::integer[], %(headings)s::jsonb[],
              %(pages)s::integer[], %(tokens)s::integer[], %(texts)s::text[], %(text_hashes)s::bytea[]) AS cut;

-- name: kept_chunks
-- Chunks of pending documents whose text their published version has too. Looked up document by document: joined, a
-- table that has never been analysed is read as a whole.
SELECT count(*) AS chunks
  FROM document d
 CROSS JOIN LATERAL (SELECT version_id FROM published
                      WHERE tenant_id = %(tenant_id)s AND generation = %(live)s AND document_id = d.document_id
                     OFFSET 0) AS p
 CROSS JOIN LATERAL (SELECT text_hash FROM chunk
                      WHERE tenant_id = %(tenant_id)s AND version_id = d.version_id AND chunker = %(chunker)s
                     OFFSET 0) AS c
 WHERE d.tenant_id = %(tenant_id)s
   AND d.pending = 'publication'
   AND d.removed_at IS NULL
   AND d.forgotten_at IS NULL
   AND (SELECT true FROM failure f
         WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'publish' AND f.key = d.version_id::text
         LIMIT 1) IS NULL
   AND c.text_hash IN (SELECT text_hash FROM chunk
                        WHERE tenant_id = %(tenant_id)s AND version_id = p.version_id AND chunker = %(chunker)s
                       OFFSET 0);

-- name: pending_chunks
-- Chunks of pending documents that are not held back, and of the versions that are published for them now. Looked up as
-- in `kept_chunks`.
SELECT coalesce(sum(k.chunks), 0)::bigint AS wanted,
       coalesce(sum((SELECT p.chunks FROM published p
                      WHERE p.tenant_id = %(tenant_id)s AND p.generation = %(live)s
                        AND p.document_id = d.document_id)), 0)::bigint AS published
  FROM document d
 CROSS JOIN LATERAL (SELECT chunks FROM chunking
                      WHERE tenant_id = %(tenant_id)s AND version_id = d.version_id AND chunker = %(chunker)s
                     OFFSET 0) AS k
 WHERE d.tenant_id = %(tenant_id)s
   AND d.pending = 'publication'
   AND d.removed_at IS NULL
   AND d.forgotten_at IS NULL
   AND (SELECT true FROM failure f
         WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'publish' AND f.key = d.version_id::text
         LIMIT 1) IS NULL;
