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
-- Chunks of pending documents whose text their published version has too.
SELECT count(*) AS chunks
  FROM document d
  JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = %(live)s AND p.document_id = d.document_id
  JOIN chunk c ON c.tenant_id = %(tenant_id)s AND c.version_id = d.version_id AND c.chunker = %(chunker)s
 WHERE d.tenant_id = %(tenant_id)s
   AND d.pending = 'publication'
   AND d.removed_at IS NULL
   AND d.forgotten_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM failure f
                    WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'publish' AND f.key = d.version_id::text)
   AND EXISTS (SELECT 1 FROM chunk o
                WHERE o.tenant_id = %(tenant_id)s AND o.version_id = p.version_id AND o.chunker = %(chunker)s
                  AND o.text_hash = c.text_hash);

-- name: pending_chunks
-- Chunks of pending documents that are not held back, and of the versions that are published for them now.
SELECT coalesce(sum(k.chunks), 0)::bigint AS wanted,
       coalesce(sum(p.chunks), 0)::bigint AS published
  FROM document d
  JOIN chunking k ON k.tenant_id = %(tenant_id)s AND k.version_id = d.version_id AND k.chunker = %(chunker)s
  LEFT JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = %(live)s AND p.document_id = d.document_id
 WHERE d.tenant_id = %(tenant_id)s
   AND d.pending = 'publication'
   AND d.removed_at IS NULL
   AND d.forgotten_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM failure f
                    WHERE f.tenant_id = %(tenant_id)s AND f.stage = 'publish' AND f.key = d.version_id::text);
