/* The syscall instruction, at several addresses: the server's own calls leave at rs_sys, those it makes
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

#ifndef RS_STUB
/* For clone(2): the child finds where to go on on its new stack, and nothing on its shadow stack. */
	.globl rs_clone_call
	.hidden rs_clone_call
	.type rs_clone_call, @function
rs_clone_call:
	mov %rdi, %rax
	mov %rsi, %rdi
	mov %rdx, %rsi
	mov %rcx, %rdx
	mov %r8, %r10
	mov %r9, %r8
	mov 8(%rsp), %r9
	syscall
	test %rax, %rax
	jz 1f
	ret
1:	pop %rcx
	jmp *%rcx
	.size rs_clone_call, . - rs_clone_call
#endif

/* Where a child begins: the door has taken this address from the stack, and left the child's
 * struct rs_child at the stack pointer. */
	.globl rs_child_entry
	.hidden rs_child_entry
	.type rs_child_entry, @function
rs_child_entry:
	xor %ebp, %ebp
	mov %rsp, %rdi
	and $-16, %rsp
	call rs_child_main
	ud2
	.size rs_child_entry, . - rs_child_entry

	.section .note.GNU-stack, "", @progbits
