/* The syscall instruction, at two addresses: the server's own calls leave at rs_sys, those it makes
 * for its client at rs_client_call, so that a filter can tell them apart by instruction pointer.
 *
 *   int64_t f(int64_t nr, uint64_t a0, a1, a2, a3, a4, a5)
 *
 * in:    nr rdi   a0 rsi   a1 rdx   a2 rcx   a3 r8    a4 r9   a5 8(%rsp)
 * call:  nr rax   a0 rdi   a1 rsi   a2 rdx   a3 r10   a4 r8   a5 r9
 * out:   rax, errors as -errno; the kernel clobbers rcx and r11 only.
 *
 * The kernel's defences make the CPU forget where functions return to, so that the first return
 * after a call costs more than the rest of a short one. The stub jumps instead. The extension may
 * live in a process with a shadow stack, and must return. */
	.text

	.macro leave_door
#ifdef RS_STUB
	pop %rcx
	jmp *%rcx
#else
	ret
#endif
	.endm

	.macro door name
	.globl \name
	.hidden \name
	.type \name, @function
\name:
	mov %rdi, %rax
	mov %rsi, %rdi
	mov %rdx, %rsi
	mov %rcx, %rdx
	mov %r8, %r10
	mov %r9, %r8
	mov 8(%rsp), %r9
	syscall
	leave_door
	.size \name, . - \name
	.endm

	door rs_sys
	door rs_client_call

	.section .note.GNU-stack, "", @progbits
